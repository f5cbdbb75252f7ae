//! The Unix socket: its folder, its path, its token file, and a fleet on it with a worker that speaks ZMTP by hand.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use slackwater_core::{Event, GoneCause, WorkerId};
use slackwater_wire::messages::{ByeCode, Heartbeat};
use slackwater_wire::{Frames, Message, decode, encode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::rig::{config, hello, ready};
use crate::transport::{Fleet, FleetEvent, LinkConfig, TransportError, UnixLink};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/worker.sock");
    (folder, socket)
}

fn bind(path: &Path) -> Result<UnixLink, TransportError> {
    UnixLink::bind(path, LinkConfig::default())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn folder_socket_and_token_are_private_and_removed_at_the_end() {
    let (_folder, path) = folder();
    let fleet = Fleet::listen(&path, LinkConfig::default(), config()).unwrap();
    assert_eq!(fleet.endpoint(), format!("ipc://{}", path.display()));
    let token = path.with_file_name("worker.token");
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!((mode(&path), mode(&token)), (0o600, 0o600));
    assert_eq!(
        fs::read_to_string(&token).unwrap(),
        fleet.join_token() + "\n"
    );
    drop(fleet);
    assert!(!path.exists() && !token.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let (_folder, path) = folder();
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    let live = UnixListener::bind(&path).unwrap();
    let refused = bind(&path).err().unwrap();
    assert!(
        matches!(refused, TransportError::Occupied { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("--worker-socket"));
    // The one that was refused has removed nothing.
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(live);
    bind(&path).unwrap();
}

#[tokio::test]
async fn a_folder_has_one_server_at_a_time() {
    let (_folder, path) = folder();
    let other = path.with_file_name("other.sock");
    let listen = |path: &Path| Fleet::listen(path, LinkConfig::default(), config());
    let first = listen(&path).unwrap();
    for path in [&path, &other] {
        let refused = listen(path).err().unwrap();
        assert!(
            matches!(&refused, TransportError::SharedFolder { folder } if folder == path.parent().unwrap()),
            "{refused}"
        );
        assert!(refused.to_string().contains("--worker-socket"));
    }
    let token = || fs::read_to_string(path.with_file_name("worker.token")).unwrap();
    assert_eq!(token(), first.join_token() + "\n");
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(first);
    let second = listen(&other).unwrap();
    assert_eq!(token(), second.join_token() + "\n");
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let (_folder, path) = folder();
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    fs::write(&path, "mine").unwrap();
    let error = bind(&path).err().unwrap();
    assert!(
        matches!(error, TransportError::NotASocket { .. }),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn a_folder_that_others_can_enter_is_refused() {
    let (_folder, path) = folder();
    fs::create_dir(path.parent().unwrap()).unwrap();
    for open in [0o755, 0o710, 0o701, 0o777] {
        fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(open)).unwrap();
        let error = bind(&path).err().unwrap();
        assert!(
            matches!(error, TransportError::OpenFolder { mode, .. } if mode == open),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_path_fits_the_kernel_s_field_or_is_refused() {
    let (_folder, path) = folder();
    let folder = path.parent().unwrap();
    let room = 107 - folder.as_os_str().len() - 1;
    bind(&folder.join("s".repeat(room))).unwrap();
    let error = bind(&folder.join("s".repeat(room + 1))).err().unwrap();
    assert!(
        matches!(
            error,
            TransportError::PathTooLong {
                bytes: 108,
                limit: 107,
                ..
            }
        ),
        "{error}"
    );
}

/// A DEALER's bytes by hand, without the router's own codec.
struct Dealer(UnixStream);

impl Dealer {
    async fn connect(path: &Path) -> Self {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
        bytes.extend_from_slice(b"NULL");
        bytes.resize(64, 0);
        bytes.extend_from_slice(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER");
        stream.write_all(&bytes).await.unwrap();
        let mut theirs = [0; 64 + 30];
        stream.read_exact(&mut theirs).await.unwrap();
        assert_eq!(&theirs[64 + 2 + 6 + 12 + 4..], b"ROUTER");
        Self(stream)
    }

    async fn say(&mut self, message: &Message) {
        let parts = encode(message).unwrap().into_parts();
        let mut bytes = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            bytes.push(2 | u8::from(at < 3));
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        self.0.write_all(&bytes).await.unwrap();
    }

    async fn recv(&mut self) -> Option<Message> {
        let mut parts = Vec::new();
        loop {
            let flags = self.0.read_u8().await.ok()?;
            let length = if flags & 2 == 0 {
                u64::from(self.0.read_u8().await.unwrap())
            } else {
                self.0.read_u64().await.unwrap()
            };
            let mut part = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut part).await.unwrap();
            parts.push(part);
            if flags & 1 == 0 {
                return Some(decode(&Frames::from_parts(&parts).unwrap()).unwrap());
            }
        }
    }
}

#[tokio::test]
async fn a_worker_lives_and_dies_on_the_real_socket() {
    let (_folder, path) = folder();
    let mut fleet = Fleet::listen(&path, LinkConfig::default(), config()).unwrap();
    let token = fs::read_to_string(path.with_file_name("worker.token")).unwrap();
    let welcome = async {
        let mut dealer = Dealer::connect(&path).await;
        dealer.say(&hello(token.trim())).await;
        let welcome = dealer.recv().await;
        dealer.say(&Message::Ready(ready())).await;
        (dealer, welcome)
    };
    let (event, (mut dealer, welcome)) = tokio::join!(fleet.next(), welcome);
    assert!(matches!(welcome, Some(Message::Welcome(_))), "{welcome:?}");
    let FleetEvent::Core(Event::WorkerReady { origin, .. }) = event else {
        panic!("{event:?}")
    };
    assert_eq!((origin.worker, origin.seq), (WorkerId(0), 1));
    let beat = Heartbeat {
        seq: 2,
        progress: 3,
        busy: true,
    };
    dealer.say(&Message::Heartbeat(beat)).await;
    drop(dealer);
    // What it said before its end comes before its end.
    assert_eq!(
        fleet.next().await,
        FleetEvent::Core(Event::Heartbeat {
            origin: slackwater_core::Origin { seq: 2, ..origin },
            progress: 3,
            busy: true,
        })
    );
    assert_eq!(
        fleet.next().await,
        FleetEvent::Core(Event::WorkerGone {
            worker: origin.worker,
            epoch: Some(origin.epoch),
            cause: GoneCause::LinkClosed,
        })
    );
}

#[tokio::test]
async fn a_goodbye_arrives_although_the_link_is_closed_at_once() {
    let (_folder, path) = folder();
    let mut fleet = Fleet::listen(&path, LinkConfig::default(), config()).unwrap();
    let rogue = async {
        let mut dealer = Dealer::connect(&path).await;
        dealer.say(&hello("00112233445566778899aabbccddeeff")).await;
        let answer = dealer.recv().await;
        (answer, dealer.recv().await)
    };
    let (answer, after) = tokio::select! {
        event = fleet.next() => panic!("{event:?}"),
        outcome = rogue => outcome,
    };
    let Some(Message::Bye(bye)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((bye.seq, bye.code, after), (0, ByeCode::BadToken, None));
    fleet.close_all(ByeCode::Drain, "the end");
    fleet.finish().await;
}
