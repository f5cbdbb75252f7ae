//! The whole of an answer that is not streamed.

use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};
use slackwater_core::TokenLogprobs;

use super::answer::{self, Body};
use super::chunk::{AnswerHead, Shape, usage_json};
use super::error::ServerError;
use super::fields::Endpoint;
use crate::session::{Choices, FinishReason, Position, Step};

/// One choice as far as it has come.
#[derive(Debug, Clone, Default)]
struct Choice {
    text: String,
    positions: Vec<Position>,
    token_ids: Vec<u32>,
    prompt_logprobs: Vec<TokenLogprobs>,
    finish: Option<FinishReason>,
}

impl Choice {
    fn take(&mut self, step: Step) {
        self.text.push_str(&step.text);
        self.positions.extend(step.positions);
        self.token_ids.extend(step.token_ids);
        self.prompt_logprobs.extend(step.prompt_logprobs);
        self.finish = self.finish.or(step.finish);
    }
}

/// Waits for the whole of all texts, and gives the best `n` of each `best_of`. The server is the one that takes them
/// here, and their length is bounded.
///
/// # Errors
/// What any of them came to.
pub(super) async fn whole(
    mut sessions: Choices,
    head: &AnswerHead,
    shape: &Shape,
    (n, best_of): (u32, u32),
) -> Result<Response<Body>, ServerError> {
    let mut choices = vec![Choice::default(); sessions.len()];
    while !sessions.ended() {
        let (index, step) = sessions.next().await?;
        if let Some(choice) = choices.get_mut(index) {
            choice.take(step);
        }
        sessions.taken().await?;
    }
    let chosen = best(&sessions.mean_logprobs(), n as usize, best_of as usize);
    let mut listed = Vec::with_capacity(chosen.len());
    for (index, from) in chosen.into_iter().enumerate() {
        let prompt = from / best_of.max(1) as usize;
        if let Some(choice) = choices.get(from) {
            listed.push(choice_json(shape, index, prompt, choice));
        }
    }
    let mut body = json!({
        "id": head.id,
        "object": match shape.endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Completions => "text_completion",
        },
        "created": head.created,
        "model": head.model,
        "service_tier": head.service_tier,
        "system_fingerprint": head.system_fingerprint,
        "choices": listed,
        "usage": usage_json(sessions.usage()),
    });
    // Chat has one prompt, of which it speaks beside the choices.
    if let (Endpoint::Chat, Some(body), Some(first)) =
        (shape.endpoint, body.as_object_mut(), choices.first())
    {
        about_prompt(shape, 0, first, body);
    }
    Ok(answer::json(StatusCode::OK, body.to_string()))
}

/// Indices of the choices with the highest mean logprobs, `n` of each `best_of`; of equal ones the earlier.
fn best(means: &[f64], n: usize, best_of: usize) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(means.len());
    for (group, means) in means.chunks(best_of.max(1)).enumerate() {
        let mut order: Vec<(usize, f64)> = means.iter().copied().enumerate().collect();
        if n < best_of {
            order.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        }
        let first = group * best_of;
        chosen.extend(order.into_iter().take(n).map(|(index, _)| first + index));
    }
    chosen
}

fn choice_json(shape: &Shape, index: usize, prompt: usize, choice: &Choice) -> Value {
    let mut object = Map::new();
    object.insert("index".to_owned(), index.into());
    match shape.endpoint {
        Endpoint::Chat => object.insert(
            "message".to_owned(),
            json!({"role": "assistant", "content": choice.text, "refusal": null}),
        ),
        Endpoint::Completions => object.insert("text".to_owned(), choice.text.as_str().into()),
    };
    let logprobs = match &shape.logprobs {
        Some(writer) => writer.choice(&choice.positions, &mut 0),
        None => Value::Null,
    };
    object.insert("logprobs".to_owned(), logprobs);
    let reason = choice.finish.unwrap_or(FinishReason::Stop);
    object.insert("finish_reason".to_owned(), reason.name().into());
    if shape.token_ids {
        object.insert("token_ids".to_owned(), choice.token_ids.as_slice().into());
    }
    if shape.endpoint == Endpoint::Completions {
        about_prompt(shape, prompt, choice, &mut object);
    }
    object.into()
}

fn about_prompt(shape: &Shape, prompt: usize, choice: &Choice, object: &mut Map<String, Value>) {
    let tokens = shape.prompt_tokens(prompt);
    if shape.token_ids {
        object.insert("prompt_token_ids".to_owned(), tokens.into());
    }
    if let Some((writer, top)) = &shape.prompt_logprobs {
        let value = writer.prompt(tokens, &choice.prompt_logprobs, *top);
        object.insert("prompt_logprobs".to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn the_best_of_each_group_are_chosen_and_without_a_choice_the_order_stays() {
        let means = [-1.0, -0.5, -2.0, -3.0, -3.0, -1.0];
        assert_eq!(best(&means, 2, 3), [1, 0, 5, 3]);
        assert_eq!(best(&means, 1, 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(best(&means, 3, 3), [0, 1, 2, 3, 4, 5]);
    }
}
