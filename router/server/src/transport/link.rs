//! The link over our own ZMTP on a Unix socket: makes the listener, with all checks, and carries messages.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _,
};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use slackwater_wire::Frames;
use slackwater_zmtp::{self as zmtp, ConnectionId, EndpointError, Router};
use tokio::net::UnixListener;

use super::error::TransportError;
use super::{Cause, LinkError, LinkEvent, LinkId, SendError, WorkerLink};

/// Settings of the endpoint below the link: limits, deadlines, queues.
pub type LinkConfig = zmtp::Config;

/// Longest path of a Unix socket in bytes; the kernel's field has one more for its end.
const MAX_PATH_BYTES: usize = 107;
/// The join token's file, beside the socket.
pub const TOKEN_FILE: &str = "worker.token";
/// The file beside the socket whose lock says that the folder is in use.
const LOCK_FILE: &str = ".worker.lock";

/// Workers on a Unix socket. Needs a tokio runtime with time and IO; removes its files when it is dropped.
pub struct UnixLink {
    router: Router<UnixListener>,
    socket: OwnFile,
    token: Option<OwnFile>,
    /// Held until the files above are removed, so it comes last.
    _lock: File,
}

impl UnixLink {
    /// Listens at this path, whose folder is made if it is missing.
    ///
    /// # Errors
    /// [`TransportError`]: path too long, folder not private, another server in it, or the operating system's refusal.
    pub fn bind(path: &Path, config: LinkConfig) -> Result<Self, TransportError> {
        let bytes = path.as_os_str().as_bytes().len();
        if bytes > MAX_PATH_BYTES {
            return Err(TransportError::PathTooLong {
                path: path.to_owned(),
                bytes,
                limit: MAX_PATH_BYTES,
            });
        }
        let lock = lock(private_folder(path)?)?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(|source| match source.kind() {
            // Another program was quicker.
            ErrorKind::AddrInUse => TransportError::Occupied {
                path: path.to_owned(),
            },
            _ => io_error("listen on", path)(source),
        })?;
        let socket = OwnFile::of(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(io_error("set the mode of", path))?;
        Ok(Self {
            router: Router::new(listener, config),
            socket,
            token: None,
            _lock: lock,
        })
    }

    /// What a worker connects to.
    pub fn endpoint(&self) -> String {
        format!("ipc://{}", self.socket.path.display())
    }

    /// Writes the join token's file beside the socket, mode 0600, whole or not at all.
    ///
    /// # Errors
    /// [`TransportError::Io`].
    pub fn write_token(&mut self, token: &str) -> Result<(), TransportError> {
        let path = self.socket.path.with_file_name(TOKEN_FILE);
        let draft = self.socket.path.with_file_name(".worker.token.new");
        let failed = io_error("write", &draft);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| writeln!(file, "{token}"))
            .map_err(failed)?;
        fs::rename(&draft, &path).map_err(io_error("write", &path))?;
        self.token = Some(OwnFile::of(&path)?);
        Ok(())
    }
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> TransportError {
    let path = path.to_owned();
    move |source| TransportError::Io {
        what,
        path: path.clone(),
        source,
    }
}

/// Makes the folder if it is missing, and refuses one that is not ours alone.
fn private_folder(path: &Path) -> Result<&Path, TransportError> {
    let parent = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => {
            return Err(TransportError::NoFolder {
                path: path.to_owned(),
            });
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(io_error("make", parent))?;
    let metadata = fs::metadata(parent).map_err(io_error("look at", parent))?;
    let folder = parent.to_owned();
    if !metadata.is_dir() {
        return Err(TransportError::NotAFolder { folder });
    }
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(TransportError::ForeignFolder {
            folder,
            owner,
            user,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TransportError::OpenFolder { folder, mode });
    }
    Ok(parent)
}

/// Takes the folder for this server, for as long as the file is open. With the lock held nobody else removes or makes the
/// files of a server there. The lock's file stays: who removed it could take it from under a server that has just opened
/// it, and two would hold a lock each.
fn lock(folder: &Path) -> Result<File, TransportError> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(TransportError::SharedFolder {
            folder: folder.to_owned(),
        }),
        Err(error) => Err(io_error("lock", &path)(error.into())),
    }
}

/// Removes a socket that nobody listens on: only a refused connection says so.
fn remove_stale(path: &Path) -> Result<(), TransportError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("look at", path)(error)),
    };
    let path = path.to_owned();
    if !metadata.file_type().is_socket() {
        return Err(TransportError::NotASocket { path });
    }
    match UnixStream::connect(&path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(&path).map_err(io_error("remove the stale socket", &path))
        }
        Ok(_) => Err(TransportError::Occupied { path }),
        Err(source) => Err(io_error("reach", &path)(source)),
    }
}

/// A file that this process made, removed when it is dropped if it is still the same file.
struct OwnFile {
    path: PathBuf,
    metadata: Metadata,
}

impl OwnFile {
    fn of(path: &Path) -> Result<Self, TransportError> {
        Ok(Self {
            metadata: fs::symlink_metadata(path).map_err(io_error("look at", path))?,
            path: path.to_owned(),
        })
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let same =
            |now: Metadata| (now.dev(), now.ino()) == (self.metadata.dev(), self.metadata.ino());
        if fs::symlink_metadata(&self.path).is_ok_and(same) {
            // Left behind, it is found stale by the next server.
            fs::remove_file(&self.path).ok();
        }
    }
}

impl WorkerLink for UnixLink {
    async fn recv(&mut self) -> Result<LinkEvent, LinkError> {
        loop {
            let event = self.router.recv().await.map_err(|error| match error {
                EndpointError::Accept { source } => LinkError::Accept { source },
                _ => LinkError::Ended,
            })?;
            let event = match event {
                zmtp::Event::Connected(id) => LinkEvent::Connected(LinkId(id.0)),
                zmtp::Event::Message(id, parts) => match Frames::from_parts(&parts) {
                    Ok(frames) => LinkEvent::Message(LinkId(id.0), frames),
                    Err(error) => LinkEvent::Malformed(LinkId(id.0), error),
                },
                zmtp::Event::Full(id, full) => LinkEvent::Full(LinkId(id.0), full),
                zmtp::Event::Closed(id, why) => LinkEvent::Closed(LinkId(id.0), cause(&why)),
                zmtp::Event::Refused(why) => LinkEvent::Refused(cause(&why)),
                _ => continue,
            };
            return Ok(event);
        }
    }

    fn try_send(&mut self, link: LinkId, frames: Frames) -> Result<(), SendError> {
        let parts = frames.into_parts().map(Bytes::from).to_vec();
        self.router
            .try_send(ConnectionId(link.0), parts)
            .map_err(|error| match error {
                zmtp::SendError::Full => SendError::Full,
                zmtp::SendError::Gone => SendError::Gone,
                other => SendError::Invalid {
                    message: other.to_string(),
                },
            })
    }

    fn close(&mut self, link: LinkId) {
        self.router.close(ConnectionId(link.0));
    }

    async fn finish(&mut self) {
        self.router.finish().await;
    }
}

fn cause(cause: &zmtp::Cause) -> Cause {
    match cause {
        zmtp::Cause::PeerClosed => Cause::PeerClosed,
        other => Cause::Broken {
            message: other.to_string(),
        },
    }
}
