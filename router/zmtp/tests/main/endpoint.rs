//! The ROUTER socket over Unix sockets, with peers that are made by hand.

use std::time::Duration;

use bytes::Bytes;
use slackwater_zmtp::{
    Cause, Config, ConnectionId, Event, Heartbeat, Limits, Router, SendError, ZmtpError,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::peer::{command, frame, greeting, hello, message, parts, property};

/// A time limit that is over at once.
const SHORT: Duration = Duration::from_millis(1);

struct Rig {
    router: Router<UnixListener>,
    folder: TempDir,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        Self {
            router: Router::new(listener, config),
            folder,
        }
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("s"))
            .await
            .unwrap()
    }

    /// A peer that has sent greeting and READY.
    async fn peer(&mut self) -> (UnixStream, ConnectionId) {
        let mut stream = self.raw().await;
        stream.write_all(&hello()).await.unwrap();
        let event = self.router.recv().await.unwrap();
        let Event::Connected(id) = event else {
            panic!("{event:?}")
        };
        let mut theirs = vec![0; 64 + our_ready().len()];
        stream.read_exact(&mut theirs).await.unwrap();
        assert_eq!(&theirs[64..], our_ready());
        (stream, id)
    }

    async fn closed(&mut self, id: ConnectionId) -> Cause {
        match self.router.recv().await.unwrap() {
            Event::Closed(closed, cause) if closed == id => cause,
            event => panic!("{event:?}"),
        }
    }

    async fn refused(&mut self) -> Cause {
        match self.router.recv().await.unwrap() {
            Event::Refused(cause) => cause,
            event => panic!("{event:?}"),
        }
    }

    async fn message(&mut self, id: ConnectionId) -> Vec<Bytes> {
        match self.router.recv().await.unwrap() {
            Event::Message(from, parts) if from == id => parts,
            event => panic!("{event:?}"),
        }
    }

    /// Reads a peer's end while the router runs and says nothing.
    async fn read(&mut self, stream: &mut UnixStream, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        tokio::select! {
            event = self.router.recv() => panic!("{event:?}"),
            outcome = stream.read_exact(&mut buffer) => outcome.unwrap(),
        };
        buffer
    }
}

fn our_ready() -> Vec<u8> {
    command(b"READY", &property(b"Socket-Type", b"ROUTER"))
}

#[tokio::test]
async fn messages_go_both_ways_in_order() {
    let mut rig = Rig::new(|_| {});
    let (mut stream, id) = rig.peer().await;
    let large = vec![7; 300_000];
    stream.write_all(&message(&[b"first", b""])).await.unwrap();
    assert_eq!(rig.message(id).await, parts(&[b"first", b""]));
    let sent = message(&[b"second", &large]);
    let (got, written) = tokio::join!(rig.message(id), stream.write_all(&sent));
    written.unwrap();
    assert_eq!(got, parts(&[b"second", &large]));
    rig.router.try_send(id, parts(&[b"a"])).unwrap();
    rig.router.try_send(id, parts(&[&large, b"b"])).unwrap();
    let expected = [message(&[b"a"]), message(&[&large, b"b"])].concat();
    assert_eq!(rig.read(&mut stream, expected.len()).await, expected);
}

#[tokio::test]
async fn what_a_peer_said_comes_before_its_end() {
    let mut rig = Rig::new(|_| {});
    let (mut stream, id) = rig.peer().await;
    let words = [message(&[b"1"]), message(&[b"2"]), frame(1, b"half")].concat();
    stream.write_all(&words).await.unwrap();
    drop(stream);
    assert_eq!(rig.message(id).await, parts(&[b"1"]));
    assert_eq!(rig.message(id).await, parts(&[b"2"]));
    assert!(matches!(rig.closed(id).await, Cause::PeerClosed));
    assert_eq!(
        rig.router.try_send(id, parts(&[b"late"])),
        Err(SendError::Gone)
    );
}

#[tokio::test]
async fn a_violation_closes_one_connection_with_its_cause_and_no_other() {
    let mut rig = Rig::new(|_| {});
    let (mut evil, evil_id) = rig.peer().await;
    let (mut good, good_id) = rig.peer().await;
    evil.write_all(&frame(8, b"")).await.unwrap();
    let cause = rig.closed(evil_id).await;
    let flags = matches!(
        cause,
        Cause::Protocol {
            error: ZmtpError::Flags { flags: 8 }
        }
    );
    assert!(flags, "{cause}");
    assert_eq!(evil.read(&mut [0]).await.unwrap(), 0);
    good.write_all(&message(&[b"still here"])).await.unwrap();
    assert_eq!(rig.message(good_id).await, parts(&[b"still here"]));
}

#[tokio::test]
async fn a_broken_handshake_is_refused_with_its_cause() {
    let mut rig = Rig::new(|_| {});
    let mut stream = rig.raw().await;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let cause = rig.refused().await;
    assert!(matches!(cause, Cause::Protocol { .. }), "{cause}");
    let mut stream = rig.raw().await;
    let request = command(b"READY", &property(b"Socket-Type", b"REQ"));
    let bytes = [greeting(), request].concat();
    stream.write_all(&bytes).await.unwrap();
    let cause = rig.refused().await;
    assert!(matches!(cause, Cause::Protocol { .. }), "{cause}");
    let mut theirs = Vec::new();
    stream.read_to_end(&mut theirs).await.unwrap();
    assert_eq!(&theirs[64 + 2..64 + 8], b"\x05ERROR");
}

#[tokio::test]
async fn a_handshake_has_a_deadline_wherever_it_stops() {
    let mut rig = Rig::new(|config| config.handshake = SHORT);
    for bytes in [&[][..], &greeting()[..10], &greeting(), &hello()[..80]] {
        let mut stream = rig.raw().await;
        stream.write_all(bytes).await.unwrap();
        let cause = rig.refused().await;
        assert!(
            matches!(cause, Cause::HandshakeTimeout { limit: SHORT }),
            "{cause}"
        );
    }
}

#[tokio::test]
async fn the_oldest_handshake_makes_room_for_a_newer_one() {
    let mut rig = Rig::new(|config| config.max_pending = 2);
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(rig.raw().await);
    }
    for _ in 0..3 {
        let cause = rig.refused().await;
        assert!(matches!(cause, Cause::Crowded { limit: 2 }), "{cause}");
    }
    let mut good = rig.raw().await;
    good.write_all(&hello()).await.unwrap();
    assert!(matches!(rig.refused().await, Cause::Crowded { limit: 2 }));
    let event = rig.router.recv().await.unwrap();
    assert!(matches!(event, Event::Connected(_)), "{event:?}");
}

#[tokio::test]
async fn a_ping_is_answered_and_ours_is_sent_to_peers_that_know_it() {
    let mut rig = Rig::new(|config| {
        config.heartbeat = Some(Heartbeat {
            interval: SHORT,
            timeout: Duration::from_mins(1),
        });
    });
    let (mut stream, _) = rig.peer().await;
    let ping = command(b"PING", &600_u16.to_be_bytes());
    assert_eq!(rig.read(&mut stream, ping.len()).await, ping);
    let mut rig = Rig::new(|_| {});
    let (mut stream, _) = rig.peer().await;
    let ask = command(b"PING", b"\0\0abc");
    stream.write_all(&ask).await.unwrap();
    let answer = command(b"PONG", b"abc");
    assert_eq!(rig.read(&mut stream, answer.len()).await, answer);
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_closed() {
    let mut rig = Rig::new(|config| {
        config.heartbeat = Some(Heartbeat {
            interval: SHORT,
            timeout: SHORT,
        });
    });
    let (_stream, id) = rig.peer().await;
    let cause = rig.closed(id).await;
    assert!(matches!(cause, Cause::Silent { .. }), "{cause}");
}

#[tokio::test]
async fn a_peer_of_the_older_minor_gets_no_ping() {
    let mut rig = Rig::new(|config| {
        config.heartbeat = Some(Heartbeat {
            interval: SHORT,
            timeout: SHORT,
        });
    });
    let mut stream = rig.raw().await;
    let mut bytes = hello();
    bytes[11] = 0;
    stream.write_all(&bytes).await.unwrap();
    let event = rig.router.recv().await.unwrap();
    let Event::Connected(id) = event else {
        panic!("{event:?}")
    };
    rig.read(&mut stream, 64 + our_ready().len()).await;
    // Were it watched, this would be the news of its end.
    stream.write_all(&message(&[b"alive"])).await.unwrap();
    assert_eq!(rig.message(id).await, parts(&[b"alive"]));
}

#[tokio::test]
async fn a_full_queue_is_told_at_its_mark_and_ends_the_connection_at_its_end() {
    let mut rig = Rig::new(|config| {
        config.queue = 16;
        config.queue_mark = 8;
        config.linger = SHORT;
    });
    let (mut stopped, id) = rig.peer().await;
    let (mut healthy, healthy_id) = rig.peer().await;
    let body = vec![7; 1_000];
    for count in 1..=16 {
        assert_eq!(rig.router.try_send(id, parts(&[&body])), Ok(()), "{count}");
    }
    assert_eq!(
        rig.router.try_send(id, parts(&[&body])),
        Err(SendError::Full)
    );
    assert_eq!(
        rig.router.try_send(id, parts(&[&body])),
        Err(SendError::Gone)
    );
    // Nothing more of the connection is heard, not even that it was full; others are untouched.
    healthy.write_all(&message(&[b"here"])).await.unwrap();
    assert_eq!(rig.message(healthy_id).await, parts(&[b"here"]));
    let mut rest = Vec::new();
    stopped.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn the_mark_is_raised_once_and_taken_back_at_half() {
    let mut rig = Rig::new(|config| {
        config.queue = 16;
        config.queue_mark = 8;
    });
    let (mut stream, id) = rig.peer().await;
    for _ in 0..12 {
        rig.router.try_send(id, parts(&[b"x"])).unwrap();
    }
    let raised = rig.router.recv().await.unwrap();
    assert!(matches!(raised, Event::Full(full, true) if full == id));
    let lowered = rig.router.recv().await.unwrap();
    assert!(matches!(lowered, Event::Full(full, false) if full == id));
    let expected = message(&[b"x"]).repeat(12);
    assert_eq!(rig.read(&mut stream, expected.len()).await, expected);
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_too() {
    let mut rig = Rig::new(|config| config.queue_bytes = 1_000);
    let (_stream, id) = rig.peer().await;
    let body = vec![7; 500];
    assert_eq!(rig.router.try_send(id, parts(&[&body])), Ok(()));
    assert_eq!(rig.router.try_send(id, parts(&[&body])), Ok(()));
    assert_eq!(
        rig.router.try_send(id, parts(&[&body])),
        Err(SendError::Full)
    );
}

#[tokio::test]
async fn what_is_over_a_limit_is_not_sent_and_harms_nothing() {
    let mut rig = Rig::new(|config| {
        config.limits = Limits {
            max_frame: 100,
            ..Limits::default()
        };
    });
    let (mut stream, id) = rig.peer().await;
    let error = ZmtpError::FrameTooLarge {
        bytes: 101,
        limit: 100,
    };
    assert_eq!(
        rig.router.try_send(id, parts(&[&[7; 101]])),
        Err(SendError::Invalid { error })
    );
    rig.router.try_send(id, parts(&[b"fits"])).unwrap();
    let expected = message(&[b"fits"]);
    assert_eq!(rig.read(&mut stream, expected.len()).await, expected);
}

#[tokio::test]
async fn closing_writes_what_is_queued_and_says_nothing_more() {
    let mut rig = Rig::new(|_| {});
    let (mut closed, closed_id) = rig.peer().await;
    let (mut other, other_id) = rig.peer().await;
    closed.write_all(&message(&[b"unheard"])).await.unwrap();
    rig.router.try_send(closed_id, parts(&[b"bye"])).unwrap();
    rig.router.close(closed_id);
    let expected = message(&[b"bye"]);
    assert_eq!(rig.read(&mut closed, expected.len()).await, expected);
    assert_eq!(closed.read(&mut [0]).await.unwrap(), 0);
    other.write_all(&message(&[b"heard"])).await.unwrap();
    assert_eq!(rig.message(other_id).await, parts(&[b"heard"]));
}

#[tokio::test]
async fn finishing_writes_what_is_queued_and_waits_for_no_stopped_peer() {
    let mut rig = Rig::new(|config| config.linger = Duration::from_millis(20));
    let (mut reading, id) = rig.peer().await;
    let (_stopped, stopped_id) = rig.peer().await;
    rig.router.try_send(id, parts(&[b"bye"])).unwrap();
    let large = vec![7; 8 * 1024 * 1024];
    rig.router.try_send(stopped_id, parts(&[&large])).unwrap();
    rig.router.finish().await;
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, message(&[b"bye"]));
}

#[tokio::test]
async fn a_peer_that_floods_pings_and_reads_nothing_stops_only_itself() {
    let mut rig = Rig::new(|_| {});
    let (flood, flood_id) = rig.peer().await;
    let (mut good, good_id) = rig.peer().await;
    let pings = command(b"PING", &[0; 18]).repeat(4_096);
    // Writes until the router reads no more from it: until nothing can be written while the other peer is served.
    loop {
        match flood.try_write(&pings) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        good.write_all(&message(&[b"here"])).await.unwrap();
        assert_eq!(rig.message(good_id).await, parts(&[b"here"]));
        if flood.try_write(&pings).is_err() && flood.try_write(&pings).is_err() {
            break;
        }
    }
    drop(flood);
    assert!(matches!(
        rig.closed(flood_id).await,
        Cause::PeerClosed | Cause::Io { .. }
    ));
}
