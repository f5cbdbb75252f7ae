//! What chat and completions share: from fields and prompts to requests of the core, and from their sessions to an answer.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use slackwater_core::{Class, Failure, Request, RequestId, Time};

use super::app::App;
use super::chunk::{AnswerHead, ChunkWriter, Shape};
use super::code::Code;
use super::error::ServerError;
use super::fields::{self, Endpoint};
use super::json::{self, Object, short};
use super::readers::{self, Common};
use super::route::{Call, HandlerResult, X_REQUEST_ID, is_label};
use super::wishes::{self, Wishes};
use super::{body, collect, format, requests, sse};
use crate::session::{Choices, Echo, Session, SessionError, TextOptions, TextStream};
use crate::stop::StopMatcher;

/// A body that has been read and checked, but for its prompt.
pub struct Asked {
    /// All fields.
    pub body: Object,
    /// Those that both endpoints have.
    pub common: Common,
    /// What shapes the choices.
    pub(super) wishes: Wishes,
    pub(super) endpoint: Endpoint,
    pub(super) class: Class,
    ignored: Vec<&'static str>,
    pub(super) request_id: RequestId,
    pub(super) arrival: Time,
}

/// A prompt's tokens, and its text where that was what came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompted {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The text.
    pub text: Option<String>,
}

const X_CLASS: HeaderName = HeaderName::from_static("x-slackwater-class");
const X_IGNORED: HeaderName = HeaderName::from_static("x-slackwater-ignored");
const X_PROCESSING: HeaderName = HeaderName::from_static("openai-processing-ms");

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
    let wishes = wishes::read(&body, endpoint, common.stream, limits)?;
    Ok(Asked {
        body,
        common,
        wishes,
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

/// Runs a request for each choice of each prompt and answers with their texts.
///
/// # Errors
/// What any of them came to.
pub async fn answer(app: &Arc<App>, mut asked: Asked, prompts: Vec<Prompted>) -> HandlerResult {
    requests::tokenise_words(app, &mut asked.wishes).await?;
    let prompts = requests::kept(&asked.wishes, prompts);
    let requests = requests::make(app, &asked, &prompts).await?;
    let choices = open(app, &asked, &prompts, requests).await?;
    let head = head(app, &asked);
    let wishes = &asked.wishes;
    let shape = Shape::new(app, &asked, prompts);
    let mut response = if asked.common.stream {
        let include_usage = asked.common.include_usage;
        let writer = ChunkWriter::new(&head, shape, include_usage, choices.len());
        let started = sse::answer(choices, writer, app.limits.clone()).await;
        started.map_err(|error| about_field(error, &asked.body))?
    } else {
        let done = collect::whole(choices, &head, &shape, (wishes.n, wishes.best_of)).await;
        let mut response = done.map_err(|error| about_field(error, &asked.body))?;
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

/// What a worker says of a grammar names the field that the grammar came in.
fn about_field(error: ServerError, body: &Object) -> ServerError {
    let (code, message) = match error {
        ServerError::Failed(Failure::Worker { code, message })
            if Code::of_worker(&code).is_of_grammar() =>
        {
            (code, message)
        }
        ServerError::Failed(Failure::Refused {
            code,
            message,
            param: Some(param),
        }) if param == format::PARAM => (code, message),
        other => return other,
    };
    let param = format::field(body).map(str::to_owned);
    ServerError::Failed(Failure::Refused {
        code,
        message,
        param,
    })
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

/// Opens a session for each request, in the order of the answer's choices.
async fn open(
    app: &App,
    asked: &Asked,
    prompts: &[Prompted],
    requests: Vec<Request>,
) -> Result<Choices, ServerError> {
    let mut sessions = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let mut options = text_options(app, asked, &request)?;
        if asked.wishes.echo {
            let prompt = prompts.get(index / asked.wishes.best_of as usize);
            options.echo = Some(echo(app, asked, prompt, &request)?);
        }
        let text = TextStream::new(app.model.tokenizer().clone(), options);
        let prompt_tokens = (request.choice_index() == 0).then(|| request.prompt().len());
        let stream = app.handle.open(request).await;
        let stream = stream.map_err(|_| ServerError::Draining)?;
        sessions.push(Session::new(stream, text, prompt_tokens));
    }
    Ok(Choices::new(sessions))
}

fn text_options(app: &App, asked: &Asked, request: &Request) -> Result<TextOptions, ServerError> {
    let Asked { common, wishes, .. } = asked;
    let mut stops = StopMatcher::new(&common.stop)
        .map_err(|error| ServerError::invalid("stop", error.to_string()))?;
    let mut hidden = Vec::new();
    if wishes.include_stop {
        stops = stops.showing_stop();
    } else {
        hidden.extend(&request.shaping().stop_token_ids);
        if !common.ignore_eos {
            hidden.extend(app.model.eos_token_ids());
        }
    }
    Ok(TextOptions {
        stops,
        min_tokens: common.min_tokens,
        shows_special: !wishes.skip_special,
        hidden,
        with_logprobs: wishes.logprobs.is_some(),
        with_token_ids: wishes.return_token_ids,
        echo: None,
    })
}

/// The prompt as it came, or the text of its tokens.
fn echo(
    app: &App,
    asked: &Asked,
    prompt: Option<&Prompted>,
    request: &Request,
) -> Result<Echo, ServerError> {
    let text = if let Some(text) = prompt.and_then(|prompt| prompt.text.clone()) {
        text
    } else {
        let tokenizer = app.model.tokenizer();
        let decoded = tokenizer.decode(request.prompt(), asked.wishes.skip_special);
        decoded.map_err(|error| ServerError::invalid("prompt", error.to_string()))?
    };
    Ok(Echo {
        text,
        tokens: request.prompt().clone(),
    })
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
