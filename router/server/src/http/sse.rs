//! An answer that is sent as it is made.
//!
//! Headers wait for the first output, so that a late refusal is still a real status; if that takes long they go out and
//! comments keep the stream alive. From then on an error is one event, and the last.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Body, Out};
use super::chunk::{ChunkWriter, KEEP_ALIVE};
use super::error::ServerError;
use crate::limits::ServerLimits;
use crate::session::{Choices, SessionError, Step};

/// Starts a stream.
///
/// # Errors
/// What the request came to, if that is known before the headers are due.
pub async fn answer(
    mut choices: Choices,
    writer: ChunkWriter,
    limits: Arc<ServerLimits>,
) -> Result<Response<Body>, ServerError> {
    let first = match timeout(limits.headers_wait, first_shown(&mut choices)).await {
        Ok(first) => Some(first?),
        Err(_) => None,
    };
    let events = Events {
        choices,
        writer,
        silent_until: Instant::now() + limits.keep_alive_every,
        limits,
    };
    let mut response = Response::new(Body::stream(|out| events.write(first, out)));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}

/// The first step that the client will see.
async fn first_shown(choices: &mut Choices) -> Result<(usize, Step), SessionError> {
    loop {
        let (index, step) = choices.next().await?;
        if step.is_shown() || step.finish.is_some() {
            return Ok((index, step));
        }
        choices.taken().await?;
    }
}

struct Events {
    choices: Choices,
    writer: ChunkWriter,
    limits: Arc<ServerLimits>,
    /// When a comment is due. Only bytes that are sent put it off: steps need not have text.
    silent_until: Instant,
}

impl Events {
    /// Writes the stream to its end. It never ends without `[DONE]` or an error event, unless the client goes away.
    async fn write(mut self, first: Option<(usize, Step)>, mut out: Out) {
        let end = match self.write_choices(first, &mut out).await {
            Ok(end) => end,
            Err(error) => {
                self.choices = Choices::new(Vec::new()); // Cancels the choices that have not failed.
                Bytes::from(ServerError::from(error).to_event())
            }
        };
        out.send(end).await;
    }

    /// Writes all but the last piece, and gives that one.
    async fn write_choices(
        &mut self,
        first: Option<(usize, Step)>,
        out: &mut Out,
    ) -> Result<Bytes, SessionError> {
        let mut pieces = BytesMut::new();
        let mut next = first;
        if next.is_none() {
            self.send(Bytes::from_static(KEEP_ALIVE), out).await;
        }
        loop {
            match next.take() {
                Some((index, step)) => self.put(&mut pieces, index, &step),
                None => self.wait(&mut pieces, out).await?,
            }
            let failed = self.gather(&mut pieces);
            if failed.is_ok() && self.choices.ended() {
                self.writer.done(&mut pieces, self.choices.usage());
                return Ok(pieces.freeze());
            }
            if !pieces.is_empty() {
                self.send(pieces.split().freeze(), out).await;
            } else if Instant::now() >= self.silent_until {
                self.send(Bytes::from_static(KEEP_ALIVE), out).await;
            }
            failed?;
            self.choices.taken().await?;
        }
    }

    /// Waits for a step, with comments in the silence.
    async fn wait(&mut self, pieces: &mut BytesMut, out: &mut Out) -> Result<(), SessionError> {
        loop {
            match timeout_at(self.silent_until, self.choices.next()).await {
                Ok(step) => {
                    let (index, step) = step?;
                    self.put(pieces, index, &step);
                    return Ok(());
                }
                Err(_) => self.send(Bytes::from_static(KEEP_ALIVE), out).await,
            }
        }
    }

    async fn send(&mut self, piece: Bytes, out: &mut Out) {
        out.send(piece).await;
        self.silent_until = Instant::now() + self.limits.keep_alive_every;
    }

    /// Adds the steps that are there already, each as its own event, up to the size of one write.
    fn gather(&mut self, pieces: &mut BytesMut) -> Result<(), SessionError> {
        while pieces.len() < self.limits.write_bytes {
            match self.choices.try_next()? {
                Some((index, step)) => self.put(pieces, index, &step),
                None => break,
            }
        }
        Ok(())
    }

    fn put(&mut self, pieces: &mut BytesMut, index: usize, step: &Step) {
        if step.is_shown() {
            self.writer.step(pieces, index, step);
        }
        if let Some(reason) = step.finish {
            self.writer.finish(pieces, index, reason);
        }
    }
}
