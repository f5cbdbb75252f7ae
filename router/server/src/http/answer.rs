//! What handlers answer with: a whole body, or a stream that is written as the client takes it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

/// The body of an answer.
pub struct Body(Inner);

enum Inner {
    Full(Option<Bytes>),
    Stream(Writing),
}

impl Body {
    /// A body that is there.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Full(Some(bytes.into())))
    }

    /// A body that `write` makes, piece by piece, as the connection asks for it. Dropping the body drops the writer.
    pub fn stream<F, W>(write: F) -> Self
    where
        F: FnOnce(Out) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        let slot = Slot::default();
        Self(Inner::Stream(Writing {
            writer: Some(Box::pin(write(Out(slot.clone())))),
            slot,
        }))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut self.get_mut().0 {
            Inner::Full(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty())),
            Inner::Stream(writing) => writing.poll_piece(cx),
        };
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Inner::Stream(writing) => writing.writer.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Stream(_) => SizeHint::new(),
        }
    }
}

/// Holds at most one piece on its way from the writer to the connection; both are polled by the same task, so it is never
/// contended.
type Slot = Arc<Mutex<Option<Bytes>>>;

struct Writing {
    /// None once it has returned.
    writer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    slot: Slot,
}

impl Writing {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(None);
        };
        let ended = writer.as_mut().poll(cx).is_ready();
        if ended {
            self.writer = None;
        }
        match take(&self.slot) {
            Some(piece) => Poll::Ready(Some(piece)),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

fn take(slot: &Slot) -> Option<Bytes> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Where the writer of a stream puts its pieces.
pub struct Out(Slot);

impl Out {
    /// Hands over one piece. Returns once the connection asks for the next one, that is, when this one is taken.
    pub async fn send(&mut self, piece: Bytes) {
        let mut piece = Some(piece);
        std::future::poll_fn(|_| {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match piece.take() {
                Some(piece) => {
                    *slot = Some(piece);
                    Poll::Pending // `poll_piece` empties the slot; the next call of it wakes us.
                }
                None if slot.is_some() => Poll::Pending,
                None => Poll::Ready(()),
            }
        })
        .await;
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "application/json", body)
}

/// An answer of another type.
pub fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_writer_goes_on_only_when_the_next_piece_is_asked_for() {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let mut body = Body::stream(move |mut out| async move {
            for piece in ["a", "b"] {
                out.send(Bytes::from_static(piece.as_bytes())).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut next = || {
            let mut cx = Context::from_waker(Waker::noop());
            let frame = match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(frame) => frame.map(|frame| frame.unwrap().into_data().unwrap()),
                Poll::Pending => panic!("nothing is waited for here"),
            };
            (frame, sent.load(Ordering::Relaxed), body.is_end_stream())
        };
        let piece = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        assert_eq!(next(), (piece("a"), 0, false));
        assert_eq!(next(), (piece("b"), 1, false));
        assert_eq!(next(), (None, 2, true));
    }
}
