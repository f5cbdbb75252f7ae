//! What can be wrong with the workers' socket. Each text names the flag that helps.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// The workers' socket cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A Unix socket's path has a fixed room in the kernel.
    #[error("the socket path {} is {bytes} bytes, the limit is {limit}; choose a shorter one with --worker-socket", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The path has no folder to put it in.
    #[error("{} is no path for a socket; choose another with --worker-socket", path.display())]
    NoFolder {
        /// The path.
        path: PathBuf,
    },
    /// The folder is not one.
    #[error("{} is not a folder; choose another place with --worker-socket", folder.display())]
    NotAFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Somebody else could replace what is in the folder.
    #[error("the folder {} belongs to user {owner}, not to {user}; choose another place with --worker-socket", folder.display())]
    ForeignFolder {
        /// The folder.
        folder: PathBuf,
        /// Its owner's id.
        owner: u32,
        /// Our own id.
        user: u32,
    },
    /// Others can look into the folder.
    #[error("the folder {} has mode {mode:04o}, it must be 0700: chmod it, or choose another place with --worker-socket", folder.display())]
    OpenFolder {
        /// The folder.
        folder: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something that is no server of this kind listens there.
    #[error("another program listens on {}; give this one its own --worker-socket", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// Another server has its files in the folder: there is one join token for each folder.
    #[error("another server uses the folder {}; give this one a --worker-socket in a folder of its own", folder.display())]
    SharedFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// There is something else than a socket.
    #[error("{} exists and is no socket; remove it, or choose another place with --worker-socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {what} {}: {source}; another place can be given with --worker-socket", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// No random bits for tokens.
    #[error("the operating system gives no random bits: {message}")]
    Random {
        /// What it said.
        message: String,
    },
}
