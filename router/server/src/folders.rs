//! Where things are kept. The worker follows the same rule (`pyworker/folders.py`); one vector test holds both to it.

use std::ffi::OsString;
use std::path::PathBuf;

/// The variables that the rule reads, so that a test can pass its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// `HOME`.
    pub home: Option<OsString>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
}

impl Variables {
    /// Those of this process. An empty variable counts as absent, as the XDG convention has it.
    pub fn of_process() -> Self {
        let read = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            home: read("HOME"),
            xdg_state_home: read("XDG_STATE_HOME"),
            xdg_runtime_dir: read("XDG_RUNTIME_DIR"),
        }
    }

    fn home(&self) -> PathBuf {
        self.home.clone().unwrap_or_else(|| OsString::from("/")).into()
    }

    /// The state folder: `--state-dir`, else `$XDG_STATE_HOME/slackwater`, else `~/.local/state/slackwater`.
    pub fn state_dir(&self, flag: Option<PathBuf>) -> PathBuf {
        let base = || self.xdg_state_home.as_ref().map_or_else(|| self.home().join(".local/state"), PathBuf::from);
        flag.unwrap_or_else(|| base().join("slackwater"))
    }

    /// The workers' socket: `--worker-socket`, else `$XDG_RUNTIME_DIR/slackwater/worker.sock`, without that variable
    /// `run/worker.sock` under the state folder (a folder of its own, since its mode must be 0700).
    pub fn worker_socket(&self, flag: Option<PathBuf>, state_dir: Option<PathBuf>) -> PathBuf {
        let base = || match &self.xdg_runtime_dir {
            Some(runtime) => PathBuf::from(runtime).join("slackwater"),
            None => self.state_dir(state_dir).join("run"),
        };
        flag.unwrap_or_else(|| base().join("worker.sock"))
    }
}
