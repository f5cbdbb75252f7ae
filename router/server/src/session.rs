//! A request's way back to its client as text: tokens become text, stop strings end it, usage is counted. All of it lives
//! here and not in a worker, so it survives a change of worker.

use std::task::{Context, Poll, ready};

use slackwater_core::{Ending, Failure, Logprobs};
use thiserror::Error;

use crate::handle::{SessionEvent, SessionStream};
pub use crate::text_stream::{Echo, FinishReason, Position, Step, TextOptions, TextStream};
use crate::tokenizer::TokenizerError;

/// Why a session ended without its answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SessionError {
    /// The core said so.
    #[error("{0}")]
    Failed(Failure),
    /// The driver has ended.
    #[error("the server is shutting down")]
    DriverGone,
    /// The tokens have no text.
    #[error("{0}")]
    Text(#[from] TokenizerError),
    /// The core took our own request for one whose client had gone.
    #[error("the request was cancelled")]
    Cancelled,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Output tokens, the one that ended it included.
    pub completion_tokens: u64,
    /// Prompt tokens found in a prefix cache.
    pub cached_tokens: u64,
}

/// One request on its way. Dropping it cancels the request if that has not ended.
pub struct Session {
    /// None once the request has ended or its client has all it wants.
    stream: Option<SessionStream>,
    text: TextStream,
    usage: Usage,
    /// Whether its prompt is part of the usage: one of the choices of a prompt says it.
    counts_prompt: bool,
    /// Output position up to which tokens have become text.
    position: u32,
    /// Output position that the core was last told.
    told: u32,
}

impl Session {
    /// The session of an opened request with this many prompt tokens; none: another choice counts them.
    pub fn new(stream: SessionStream, text: TextStream, prompt_tokens: Option<usize>) -> Self {
        Self {
            stream: Some(stream),
            text,
            usage: Usage {
                prompt_tokens: prompt_tokens.unwrap_or(0) as u64,
                ..Usage::default()
            },
            counts_prompt: prompt_tokens.is_some(),
            position: 0,
            told: 0,
        }
    }

    /// Tokens so far.
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// By which the best of several choices are found.
    pub fn mean_logprob(&self) -> f64 {
        self.text.mean_logprob()
    }

    /// Whether nothing more comes.
    pub const fn ended(&self) -> bool {
        self.stream.is_none()
    }

    /// The next step. After the last one, or an error, it must not be asked again.
    ///
    /// # Errors
    /// A [`SessionError`]; the request is over then.
    pub fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, SessionError>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Pending;
        };
        let event = ready!(stream.poll_next(cx));
        let step = self.take(event);
        if !matches!(step, Ok(Step { finish: None, .. })) {
            self.stream = None; // Cancels what has not ended by itself.
        }
        Poll::Ready(step)
    }

    fn take(&mut self, event: Option<SessionEvent>) -> Result<Step, SessionError> {
        match event {
            Some(SessionEvent::Tokens {
                start,
                tokens,
                num_cached_tokens,
                logprobs,
            }) => {
                if self.counts_prompt {
                    self.usage.cached_tokens = num_cached_tokens.into();
                }
                self.take_tokens(start, &tokens, logprobs)
            }
            Some(SessionEvent::Ended(Ending::Stop)) => self.end(FinishReason::Stop),
            Some(SessionEvent::Ended(Ending::Length)) => self.end(FinishReason::Length),
            Some(SessionEvent::Ended(Ending::Cancelled)) => Err(SessionError::Cancelled),
            Some(
                SessionEvent::Rejected(failure) | SessionEvent::Ended(Ending::Failed(failure)),
            ) => Err(SessionError::Failed(failure)),
            None => Err(SessionError::DriverGone),
        }
    }

    fn take_tokens(
        &mut self,
        start: u32,
        tokens: &[u32],
        logprobs: Logprobs,
    ) -> Result<Step, SessionError> {
        let count = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let mut step = Step::default();
        if self.position == 0 {
            self.text.begin(&logprobs.prompt, &mut step);
            step.prompt_logprobs = logprobs.prompt;
        }
        self.position = start.saturating_add(count);
        if self.text.push(tokens, logprobs.tokens, &mut step)? {
            step.finish = Some(FinishReason::Stop);
        }
        self.usage.completion_tokens = self.text.tokens().into();
        Ok(step)
    }

    fn end(&mut self, reason: FinishReason) -> Result<Step, SessionError> {
        let mut step = Step::default();
        let stopped = self.text.finish(&mut step)?;
        step.finish = Some(if stopped { FinishReason::Stop } else { reason });
        Ok(step)
    }

    /// Tells the core that the client has taken all that was given so far.
    ///
    /// # Errors
    /// [`SessionError::DriverGone`].
    pub async fn taken(&mut self) -> Result<(), SessionError> {
        if let Some(stream) = &self.stream
            && self.told < self.position
        {
            let told = stream.taken(self.position).await;
            told.map_err(|_| SessionError::DriverGone)?;
            self.told = self.position;
        }
        Ok(())
    }
}

/// The choices of one answer, each with its own request.
pub struct Choices {
    sessions: Vec<Session>,
    /// Where to look first, so that no choice waits for a busier one.
    first: usize,
}

impl Choices {
    /// One choice for each session.
    pub fn new(sessions: Vec<Session>) -> Self {
        Self { sessions, first: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Their mean logprobs, in their order.
    pub fn mean_logprobs(&self) -> Vec<f64> {
        self.sessions.iter().map(Session::mean_logprob).collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Whether all have ended.
    pub fn ended(&self) -> bool {
        self.sessions.iter().all(Session::ended)
    }

    /// Tokens of all.
    pub fn usage(&self) -> Usage {
        self.sessions
            .iter()
            .map(Session::usage)
            .fold(Usage::default(), |sum, one| Usage {
                prompt_tokens: sum.prompt_tokens + one.prompt_tokens,
                completion_tokens: sum.completion_tokens + one.completion_tokens,
                cached_tokens: sum.cached_tokens + one.cached_tokens,
            })
    }

    /// The next step of any choice and its index. Not to be asked once all have ended.
    ///
    /// # Errors
    /// The first error of any; the others are of no use then.
    pub async fn next(&mut self) -> Result<(usize, Step), SessionError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Choices::next`], but only if one is there already.
    ///
    /// # Errors
    /// As [`Choices::next`].
    pub fn try_next(&mut self) -> Result<Option<(usize, Step)>, SessionError> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_next(&mut cx) {
            Poll::Ready(step) => step.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(usize, Step), SessionError>> {
        let count = self.sessions.len();
        for offset in 0..count {
            let index = (self.first + offset) % count;
            let Some(session) = self.sessions.get_mut(index) else {
                continue;
            };
            if let Poll::Ready(step) = session.poll_step(cx) {
                self.first = index + 1;
                return Poll::Ready(step.map(|step| (index, step)));
            }
        }
        Poll::Pending
    }

    /// Tells the core that the client has taken all that was given so far.
    ///
    /// # Errors
    /// [`SessionError::DriverGone`].
    pub async fn taken(&mut self) -> Result<(), SessionError> {
        for session in &mut self.sessions {
            session.taken().await?;
        }
        Ok(())
    }
}
