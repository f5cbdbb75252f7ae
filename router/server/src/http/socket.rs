//! An accepted socket as hyper wants it. It notes progress for the watchdog, and when hyper is done with it it lingers:
//! closing with unread bytes makes the kernel reset the connection, and the peer would lose the answer it was sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::Activity;

pub(super) struct Socket {
    io: TokioIo<TcpStream>,
    activity: Arc<Activity>,
    linger: Duration,
    /// Set once our side is shut.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, linger: Duration) -> Self {
        Self {
            io: TokioIo::new(stream),
            activity,
            linger,
            lingering: None,
        }
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => self.activity.wrote(*bytes > 0),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.wrote(false),
        }
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if room > 0 && matches!(result, Poll::Ready(Ok(()))) {
            self.activity.read();
        }
        result
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            let until = Instant::now() + self.linger;
            self.lingering = Some(Box::pin(sleep_until(until)));
        }
        let late = match &mut self.lingering {
            Some(timer) => timer.as_mut().poll(cx).is_ready(),
            None => true,
        };
        if late {
            return Poll::Ready(Ok(()));
        }
        // Reads a bounded amount at once, so that a fast sender cannot hold the thread.
        let mut waste = [0; 8 << 10];
        for _ in 0..16 {
            let mut buf = ReadBuf::new(&mut waste);
            match ready!(Pin::new(self.io.inner_mut()).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
