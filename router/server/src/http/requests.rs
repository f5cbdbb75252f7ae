//! From what was asked to requests of the core: one for each choice of each prompt, all checked before any is opened.

use std::sync::Arc;

use slackwater_core::{Limits, Request, RequestDraft, RequestId};

use super::app::App;
use super::error::{ParamNames, ServerError};
use super::fields::Endpoint;
use super::generate::{Asked, Prompted, on_text};
use super::route::draw_request_id;
use super::wishes::Wishes;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Output tokens of a completion that names no limit.
const COMPLETION_TOKENS: u32 = 16;

/// Makes tokens of the words that may not come: of each as it begins a text, and as it stands behind a space where that
/// is as many tokens, and another one first.
///
/// # Errors
/// 400 for a word that has no tokens.
pub(super) async fn tokenise_words(app: &Arc<App>, wishes: &mut Wishes) -> Result<(), ServerError> {
    let words = std::mem::take(&mut wishes.bad_words);
    if words.is_empty() {
        return Ok(());
    }
    let bytes = words.iter().map(String::len).sum();
    wishes.shaping.bad_words = on_text(app, bytes, move |app| {
        let tokenizer = app.model.tokenizer();
        let tokens: Result<Vec<_>, _> = words.iter().map(|word| forms(tokenizer, word)).collect();
        let tokens =
            tokens.map_err(|error| ServerError::invalid("bad_words", error.to_string()))?;
        Ok(tokens.into_iter().flatten().collect())
    })
    .await?;
    Ok(())
}

fn forms(tokenizer: &Tokenizer, word: &str) -> Result<Vec<Vec<u32>>, TokenizerError> {
    let bare = word.trim_start();
    let first = tokenizer.encode(bare, false)?;
    let spaced = tokenizer.encode(&format!(" {bare}"), false)?;
    let is_another = spaced.len() == first.len() && spaced.first() != first.first();
    Ok(if is_another {
        vec![first, spaced]
    } else {
        vec![first]
    })
}

/// The ends of prompts that are kept. Of one that was cut the text is not what came any more.
pub(super) fn kept(wishes: &Wishes, mut prompts: Vec<Prompted>) -> Vec<Prompted> {
    let Some(most) = wishes.truncate_prompt else {
        return prompts;
    };
    for prompt in &mut prompts {
        let over = prompt.tokens.len().saturating_sub(most);
        if over > 0 {
            prompt.tokens.drain(..over);
            prompt.text = None;
        }
    }
    prompts
}

/// Makes all requests, in the order of the answer's choices.
///
/// # Errors
/// 400 naming the field.
pub(super) async fn make(
    app: &App,
    asked: &Asked,
    prompts: &[Prompted],
) -> Result<Vec<Request>, ServerError> {
    let limits = model_limits(app).await?;
    let names = names(asked);
    let max_tokens = match asked.endpoint {
        Endpoint::Chat => asked.common.max_tokens,
        Endpoint::Completions => asked.common.max_tokens.or(Some(COMPLETION_TOKENS)),
    };
    check_cost(app, asked, prompts.len(), max_tokens)?;
    let shaping = Arc::new(asked.wishes.shaping.clone());
    let choices = asked.wishes.best_of;
    let mut requests = Vec::with_capacity(prompts.len().saturating_mul(choices as usize));
    for prompt in prompts {
        let seed = asked.common.seed.map_or_else(draw_seed, Ok)?;
        let group = (choices > 1).then(draw_request_id).transpose()?;
        for choice_index in 0..choices {
            let request_id = if requests.is_empty() {
                asked.request_id
            } else {
                draw_request_id()?
            };
            let draft = RequestDraft {
                shaping: shaping.clone(),
                group,
                choice_index,
                max_tokens,
                seed,
                ..draft(app, asked, request_id, prompt)
            };
            let request = Request::parse(draft, &limits);
            requests.push(request.map_err(|error| ServerError::Request { error, names })?);
        }
    }
    Ok(requests)
}

fn draft(app: &App, asked: &Asked, request_id: RequestId, prompt: &Prompted) -> RequestDraft {
    let common = &asked.common;
    RequestDraft {
        request_id,
        prompt: prompt.tokens.clone(),
        max_tokens: None,
        min_tokens: common.min_tokens,
        temperature: common.temperature,
        top_p: common.top_p,
        seed: 0,
        ignore_eos: common.ignore_eos,
        shaping: Arc::default(),
        group: None,
        choice_index: 0,
        class: asked.class,
        salt: common.salt,
        arrival: asked.arrival,
        expiry: Some(asked.arrival + app.limits.patience_of(asked.class)),
    }
}

const fn names(asked: &Asked) -> ParamNames {
    ParamNames {
        prompt: match asked.endpoint {
            Endpoint::Chat => "messages",
            Endpoint::Completions => "prompt",
        },
        max_tokens: asked.common.max_tokens_name,
    }
}

/// Choices are sessions, of which there is a bounded number, and tokens, which cost time.
fn check_cost(
    app: &App,
    asked: &Asked,
    prompts: usize,
    max_tokens: Option<u32>,
) -> Result<(), ServerError> {
    let choices = prompts as u64 * u64::from(asked.wishes.best_of);
    let most = app.limits.prompts as u64;
    if choices > most {
        let text = format!("times the number of prompts is {choices}, over {most}");
        let name = if asked.wishes.best_of > asked.wishes.n {
            "best_of"
        } else {
            "n"
        };
        return Err(ServerError::invalid(name, text));
    }
    let all = choices.saturating_mul(u64::from(max_tokens.unwrap_or(1)));
    let most = app.limits.output_tokens;
    if all > most {
        let text = format!("times the number of prompts and choices is {all}, over {most}");
        return Err(ServerError::invalid(names(asked).max_tokens, text));
    }
    Ok(())
}

fn draw_seed() -> Result<u64, ServerError> {
    getrandom::u64().map_err(|_| ServerError::Internal {
        what: "the system gave no random bytes",
    })
}

/// What the model can take. Only the first worker of all can say; it is waited for a while.
async fn model_limits(app: &App) -> Result<Limits, ServerError> {
    let mut status = app.handle.watch();
    let known = status.wait_for(|status| status.limits.is_some() || status.draining);
    match tokio::time::timeout(app.limits.no_worker_wait, known).await {
        Ok(Ok(status)) => status.limits.ok_or(ServerError::Draining),
        Ok(Err(_)) => Err(ServerError::Draining),
        Err(_) => Err(ServerError::NoWorker),
    }
}
