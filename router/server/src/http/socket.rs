//! An accepted socket as hyper wants it. It notes progress for the watchdog, and when hyper is done with it it lingers:
//! closing with unread bytes makes the kernel reset the connection, and the peer would lose the answer it was sent. Where hyper
//! refuses a head with an answer of its own, which has no body, ours goes out instead.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::Activity;
use super::bad_head;

pub(super) struct Socket {
    io: TokioIo<SharedStream>,
    activity: Arc<Activity>,
    linger: Duration,
    /// What is left of the answer that goes out in place of hyper's own.
    in_its_place: Option<Bytes>,
    /// Set once our side is shut.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// The socket of a connection. The watchdog keeps the other share of the stream, to see the peer go.
    pub(super) fn new(stream: Arc<TcpStream>, activity: Arc<Activity>, linger: Duration) -> Self {
        Self {
            io: TokioIo::new(SharedStream(stream)),
            activity,
            linger,
            in_its_place: None,
            lingering: None,
        }
    }

    /// Writes our answer where hyper would write its own, which has no body; `None` for everything else. hyper is told
    /// that its bytes went out once all of ours did.
    fn poll_in_its_place(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        if self.in_its_place.is_none() {
            if self.activity.is_busy() {
                return None; // What is written is an answer of ours.
            }
            self.in_its_place = bad_head::in_place_of(buf);
        }
        let rest = self.in_its_place.as_mut()?;
        while !rest.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Ok(0))),
                Poll::Ready(Ok(bytes)) => rest.advance(bytes),
                other => return Some(other),
            }
        }
        self.in_its_place = None;
        Some(Poll::Ready(Ok(buf.len())))
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
        let result = match self.poll_in_its_place(cx, buf) {
            Some(result) => result,
            None => Pin::new(&mut self.io).poll_write(cx, buf),
        };
        self.note(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper's own answer has a head alone, so it is in one piece.
        let alone = match bufs {
            [buf] => self.poll_in_its_place(cx, buf),
            _ => None,
        };
        let result = match alone {
            Some(result) => result,
            None => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        };
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

/// A stream that can be read and written while somebody else waits for its end.
struct SharedStream(Arc<TcpStream>);

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(|_| ())),
            }
        }
    }
}

impl SharedStream {
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // The kernel has it.
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}
