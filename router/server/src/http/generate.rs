//! What chat and completions share: from fields and prompts to requests of the core, and from their sessions to an answer.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use slackwater_core::{Class, Limits, Request, RequestDraft, RequestId, Time};

use super::answer::{self, Body};
use super::app::App;
use super::chunk::{AnswerHead, ChunkWriter, whole};
use super::error::{ParamNames, ServerError};
use super::fields::{self, Endpoint};
use super::json::{self, Object, short};
use super::readers::{self, Common};
use super::route::{Call, HandlerResult, X_REQUEST_ID, draw_request_id, is_label};
use super::{body, sse};
use crate::session::{Choices, FinishReason, Session, SessionError, TextStream};
use crate::stop::StopMatcher;

/// A body that has been read and checked, but for its prompt.
pub struct Asked {
    /// All fields.
    pub body: Object,
    /// Those that both endpoints have.
    pub common: Common,
    endpoint: Endpoint,
    class: Class,
    ignored: Vec<&'static str>,
    request_id: RequestId,
    arrival: Time,
}

const X_CLASS: HeaderName = HeaderName::from_static("x-slackwater-class");
const X_IGNORED: HeaderName = HeaderName::from_static("x-slackwater-ignored");
const X_PROCESSING: HeaderName = HeaderName::from_static("openai-processing-ms");

/// Output tokens of a completion that names no limit.
const COMPLETION_TOKENS: u32 = 16;

/// Reads a request's body and the fields that both endpoints have.
///
/// # Errors
/// 4xx naming the field.
pub async fn read(app: &App, call: Call, endpoint: Endpoint) -> Result<Asked, ServerError> {
    let arrival = app.handle.clock().now();
    let limits = &app.limits;
    let bytes = body::read(call.body, call.body_limit, limits.body_deadline).await?;
    let body = json::parse(&bytes, limits)?;
    let ignored = fields::check(&body, endpoint)?;
    let common = readers::common(&body, limits)?;
    if common.model != app.model.name() {
        let model = short(&common.model);
        return Err(ServerError::UnknownModel { model });
    }
    let class = class_of(&call.headers, &common)?;
    Ok(Asked {
        body,
        common,
        endpoint,
        class,
        ignored,
        request_id: call.request_id,
        arrival,
    })
}

/// Our header, then the tier, then what the built-in tenant has.
fn class_of(headers: &HeaderMap, common: &Common) -> Result<Class, ServerError> {
    match headers.get(X_CLASS) {
        None => Ok(common.tier.unwrap_or(Class::Standard)),
        Some(wanted) => Class::ALL
            .into_iter()
            .find(|class| wanted.as_bytes() == class.name().as_bytes())
            .ok_or_else(|| {
                ServerError::invalid(X_CLASS.as_str(), "must be interactive, standard or offline")
            }),
    }
}

/// The tier that a class is sold as.
const fn tier_of(class: Class) -> &'static str {
    match class {
        Class::Interactive => "priority",
        Class::Standard => "default",
        Class::Offline => "flex",
    }
}

/// Runs one request for each prompt and answers with their texts.
///
/// # Errors
/// What any of them came to.
pub async fn answer(app: &App, asked: Asked, prompts: Vec<Vec<u32>>) -> HandlerResult {
    let requests = requests(app, &asked, prompts).await?;
    let mut sessions = Vec::with_capacity(requests.len());
    for request in requests {
        sessions.push(open(app, &asked.common, request).await?);
    }
    let choices = Choices::new(sessions);
    let head = head(app, &asked);
    let mut response = if asked.common.stream {
        let include_usage = asked.common.include_usage;
        let writer = ChunkWriter::new(asked.endpoint, &head, include_usage, choices.len());
        sse::answer(choices, writer, app.limits.clone()).await?
    } else {
        let mut response = collect(choices, asked.endpoint, &head).await?;
        let spent = app.handle.clock().now().since(asked.arrival);
        let millis = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
        response
            .headers_mut()
            .insert(X_PROCESSING, HeaderValue::from(millis));
        response
    };
    describe(response.headers_mut(), &asked, app.limits.client_id_bytes);
    Ok(response)
}

fn describe(headers: &mut HeaderMap, asked: &Asked, longest_label: usize) {
    headers.insert(X_CLASS, HeaderValue::from_static(asked.class.name()));
    if !asked.ignored.is_empty()
        && let Ok(list) = HeaderValue::from_str(&asked.ignored.join(", "))
    {
        headers.insert(X_IGNORED, list);
    }
    if let Some(label) = &asked.common.request_id
        && is_label(label.as_bytes(), longest_label)
        && let Ok(label) = HeaderValue::from_str(label)
    {
        headers.insert(X_REQUEST_ID, label);
    }
}

/// Checks all prompts before the core hears of any.
async fn requests(
    app: &App,
    asked: &Asked,
    prompts: Vec<Vec<u32>>,
) -> Result<Vec<Request>, ServerError> {
    let limits = model_limits(app).await?;
    let common = &asked.common;
    let names = ParamNames {
        prompt: match asked.endpoint {
            Endpoint::Chat => "messages",
            Endpoint::Completions => "prompt",
        },
        max_tokens: common.max_tokens_name,
    };
    let max_tokens = match asked.endpoint {
        Endpoint::Chat => common.max_tokens,
        Endpoint::Completions => common.max_tokens.or(Some(COMPLETION_TOKENS)),
    };
    let all = prompts.len() as u64 * u64::from(max_tokens.unwrap_or(1));
    if all > app.limits.output_tokens {
        let most = app.limits.output_tokens;
        return Err(ServerError::invalid(
            names.max_tokens,
            format!("times the number of prompts is {all}, over {most}"),
        ));
    }
    let patience = app.limits.patience_of(asked.class);
    let mut requests = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let request_id = if requests.is_empty() {
            asked.request_id
        } else {
            draw_request_id()?
        };
        let draft = RequestDraft {
            request_id,
            prompt,
            max_tokens,
            min_tokens: common.min_tokens,
            temperature: common.temperature,
            top_p: common.top_p,
            seed: common.seed.map_or_else(draw_seed, Ok)?,
            ignore_eos: common.ignore_eos,
            class: asked.class,
            salt: 0,
            arrival: asked.arrival,
            expiry: Some(asked.arrival + patience),
        };
        let request = Request::parse(draft, &limits);
        requests.push(request.map_err(|error| ServerError::Request { error, names })?);
    }
    Ok(requests)
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

async fn open(app: &App, common: &Common, request: Request) -> Result<Session, ServerError> {
    let stops = StopMatcher::new(&common.stop)
        .map_err(|error| ServerError::invalid("stop", error.to_string()))?;
    let text = TextStream::new(app.model.tokenizer().clone(), stops, common.min_tokens);
    let prompt_tokens = request.prompt().len();
    let stream = app.handle.open(request).await;
    let stream = stream.map_err(|_| ServerError::Draining)?;
    Ok(Session::new(stream, text, prompt_tokens))
}

fn head(app: &App, asked: &Asked) -> AnswerHead {
    let kind = match asked.endpoint {
        Endpoint::Chat => "chatcmpl",
        Endpoint::Completions => "cmpl",
    };
    AnswerHead {
        id: format!("{kind}-{}", asked.request_id),
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        model: app.model.name().to_owned(),
        service_tier: tier_of(asked.class),
        system_fingerprint: format!("fp_{}", app.model.text_hash()),
    }
}

/// Waits for the whole of all texts. The server is the one that takes them here, and their length is bounded.
async fn collect(
    mut choices: Choices,
    endpoint: Endpoint,
    head: &AnswerHead,
) -> Result<Response<Body>, ServerError> {
    let mut texts: Vec<(String, FinishReason)> =
        vec![(String::new(), FinishReason::Stop); choices.len()];
    while !choices.ended() {
        let (index, step) = choices.next().await?;
        if let Some((text, reason)) = texts.get_mut(index) {
            text.push_str(&step.text);
            *reason = step.finish.unwrap_or(*reason);
        }
        choices.taken().await?;
    }
    let body = whole(endpoint, head, &texts, choices.usage());
    Ok(answer::json(StatusCode::OK, body))
}

impl From<SessionError> for ServerError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Failed(failure) => Self::Failed(failure),
            SessionError::DriverGone => Self::Draining,
            SessionError::Text(error) => {
                tracing::error!(%error, "tokens of a worker have no text");
                Self::Internal {
                    what: "tokens of a worker have no text",
                }
            }
            SessionError::Cancelled => Self::Internal {
                what: "the core cancelled a request that its client waits for",
            },
        }
    }
}

/// Runs work on a text where it belongs; a failure there is ours.
///
/// # Errors
/// What the work gives, or [`ServerError::Internal`].
pub async fn on_text<T, F>(app: &Arc<App>, bytes: usize, work: F) -> Result<T, ServerError>
where
    T: Send + 'static,
    F: FnOnce(&App) -> Result<T, ServerError> + Send + 'static,
{
    let held = app.clone();
    let done = app.texts.run(bytes, move || work(&held)).await;
    done.map_err(|_| ServerError::Internal {
        what: "work on a text panicked",
    })?
}
