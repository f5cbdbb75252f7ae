//! The accept loop: hyper's HTTP/1 with a watchdog and caps around each connection.
//!
//! hyper's own head timer runs between requests too, so it is set to the sum of both limits and is only a second net; the
//! watchdog tells an idle connection from one that trickles a head.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::activity::Activity;
use super::answer::Body;
use super::error::ServerError;
use super::route::Routes;
use super::socket::Socket;
use crate::limits::ServerLimits;

/// What a listener is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Serve.
    #[default]
    Serving,
    /// Serve on, but each answer is its connection's last.
    Draining,
    /// Accept nothing more, and end once what runs has ended.
    Stopping,
}

/// Serves a listener until it is told to stop and the last connection has ended. How long that may take is for whoever stops
/// it to bound: dropping the future cuts what is left. If the sender of `shutdown` is lost, it stops too.
pub async fn run(
    listener: TcpListener,
    routes: Arc<Routes>,
    limits: Arc<ServerLimits>,
    mut shutdown: watch::Receiver<Phase>,
) {
    let mut front = Front {
        counts: Arc::default(),
        connections: JoinSet::new(),
        refusals: JoinSet::new(),
        shared: Shared {
            routes,
            limits,
            phase: shutdown.clone(),
        },
    };
    loop {
        tokio::select! {
            () = stopped(&mut shutdown) => break,
            accepted = listener.accept() => front.accepted(accepted).await,
            Some(ended) = front.connections.join_next() => report(ended),
            Some(ended) = front.refusals.join_next() => report(ended),
        }
    }
    drop(listener);
    while let Some(ended) = front.connections.join_next().await {
        report(ended);
    }
}

/// Returns once the listener is told to stop, or its owner is gone.
async fn stopped(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
}

/// A connection task returns nothing and is never aborted while the loop runs, so what is left is a panic.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

#[derive(Clone)]
struct Shared {
    routes: Arc<Routes>,
    limits: Arc<ServerLimits>,
    phase: watch::Receiver<Phase>,
}

struct Front {
    counts: Arc<Mutex<Counts>>,
    connections: JoinSet<()>,
    refusals: JoinSet<()>,
    shared: Shared,
}

impl Front {
    async fn accepted(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let limits = &self.shared.limits;
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(limits.accept_pause).await;
                return;
            }
        };
        if let Err(error) = tune(&stream, limits) {
            tracing::debug!(%error, "the peer is gone already");
            return;
        }
        match Seat::take(&self.counts, peer.ip(), limits) {
            Some(seat) => {
                let shared = self.shared.clone();
                self.connections.spawn(serve(stream, shared, seat));
            }
            None if self.refusals.len() < limits.max_refusals => {
                self.refusals.spawn(refuse(stream, limits.clone()));
            }
            None => {}
        }
    }
}

/// No delay for small writes, and a bound on what the kernel holds for a client that does not read.
fn tune(stream: &TcpStream, limits: &ServerLimits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_send_buffer_size(limits.send_buffer_bytes)
}

/// Serves one connection to its end.
async fn serve(stream: TcpStream, shared: Shared, _seat: Seat) {
    let Shared {
        routes,
        limits,
        phase,
    } = shared;
    let mut stopping = phase.clone();
    let activity = Arc::new(Activity::start());
    let stream = Arc::new(stream);
    let socket = Socket::new(stream.clone(), activity.clone(), limits.linger);
    let service = service_fn(|request: Request<Incoming>| {
        activity.busy();
        let (routes, activity, phase) = (routes.clone(), activity.clone(), phase.clone());
        async move {
            let mut response = routes.answer(request).await;
            if *phase.borrow() != Phase::Serving {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response.map(|body| Served { body, activity }))
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout + limits.idle_timeout)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_buffer_bytes);
    let mut connection = pin!(builder.serve_connection(socket, service));
    let mut hung_up = pin!(hung_up(&stream, &activity));
    let mut told = false;
    loop {
        tokio::select! {
            biased; // `hung_up` must see what the connection has come to.
            result = connection.as_mut() => return note_end(result),
            () = hung_up.as_mut() => return tracing::debug!("the peer hung up"),
            () = activity.overdue(&limits) => return,
            () = stopped(&mut stopping), if !told => {
                told = true;
                // The connection ends after the answer that it is giving.
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Returns once the peer has closed its side while a request is being served. hyper looks for that only while it has no
/// unread bytes, and a request may be followed by a stray line end or by the next request.
///
/// A peer that closes only its sending side counts as gone too, as it does to hyper: it cannot be told from one that has
/// hung up, and serving the latter to its end would waste a worker.
///
/// It must be polled after the connection in each turn: only that makes the connection busy, and wakes nobody here.
async fn hung_up(stream: &TcpStream, activity: &Activity) {
    // Of the things to wait for, this is the one that bytes to read do not end: the socket is not registered for urgent
    // data, and the close of the reading side is part of every interest in reading.
    if stream.ready(Interest::PRIORITY).await.is_err() {
        return std::future::pending().await; // The runtime is going down, and all tasks with it.
    }
    std::future::poll_fn(|_| {
        if activity.is_busy() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

fn note_end(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// Tells a peer over the cap why it is not served, and waits for it to have read that.
async fn refuse(mut stream: TcpStream, limits: Arc<ServerLimits>) {
    let error = ServerError::TooManyConnections;
    let body = error.to_json();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\nretry-after: 1\r\nretry-after-ms: 1000\r\nx-should-retry: true\r\n\r\n",
        body.len()
    );
    let told = async {
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        stream.shutdown().await?;
        let mut waste = [0; 4 << 10];
        while stream.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it took our words or not, the peer is not served: nothing is left to do.
    let _ = tokio::time::timeout(limits.linger, told).await;
}

/// Connections at once.
#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place under the caps, given back when dropped.
struct Seat {
    counts: Arc<Mutex<Counts>>,
    /// None for loopback.
    address: Option<IpAddr>,
}

impl Seat {
    fn take(counts: &Arc<Mutex<Counts>>, ip: IpAddr, limits: &ServerLimits) -> Option<Self> {
        let ip = ip.to_canonical();
        let address = (!ip.is_loopback()).then_some(ip);
        let mut held = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if held.total >= limits.max_connections {
            return None;
        }
        if let Some(address) = address {
            let of_address = held.by_address.entry(address).or_default();
            if *of_address >= limits.max_connections_per_address {
                return None;
            }
            *of_address += 1;
        }
        held.total += 1;
        Some(Self {
            counts: counts.clone(),
            address,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        held.total = held.total.saturating_sub(1);
        if let Some(address) = self.address
            && let Some(of_address) = held.by_address.get_mut(&address)
        {
            *of_address = of_address.saturating_sub(1);
            if *of_address == 0 {
                held.by_address.remove(&address);
            }
        }
    }
}

/// An answer's body, which tells the watchdog when it has been handed over.
struct Served {
    body: Body,
    activity: Arc<Activity>,
}

impl HttpBody for Served {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.activity.idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_address_and_given_back() {
        let limits = ServerLimits {
            max_connections: 3,
            max_connections_per_address: 1,
            ..ServerLimits::default()
        };
        let counts = Arc::default();
        let near = IpAddr::from([127, 0, 0, 1]);
        let far = IpAddr::from([192, 0, 2, 7]);
        let first = Seat::take(&counts, far, &limits);
        let taken = [
            first.is_some(),
            Seat::take(&counts, far, &limits).is_some(),
            Seat::take(&counts, near, &limits).is_some(),
        ];
        assert_eq!(taken, [true, false, true]);
        let held: Vec<_> = (0..4).map(|_| Seat::take(&counts, near, &limits)).collect();
        assert_eq!(held.iter().filter(|seat| seat.is_some()).count(), 2);
        drop(first);
        assert!(Seat::take(&counts, far, &limits).is_some());
        drop(held);
        assert_eq!(counts.lock().unwrap().total, 0);
    }

    #[tokio::test]
    async fn accepted_sockets_send_small_writes_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        tune(&accepted, &ServerLimits::default()).unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
