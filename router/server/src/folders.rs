//! Where things are kept. The worker follows the same rule (`pyworker/folders.py`); one vector test holds both to it.

use std::path::PathBuf;

use thiserror::Error;

/// No variable says where the user's files are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("HOME is not set: set it, or {instead}")]
pub struct NoHome {
    instead: &'static str,
}

/// The variables that the rule reads, so that a test can pass its own. An empty one counts as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
}

impl Variables {
    /// Those of this process.
    pub fn of_process() -> Self {
        let read = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        Self {
            home: read("HOME"),
            xdg_state_home: read("XDG_STATE_HOME"),
            xdg_runtime_dir: read("XDG_RUNTIME_DIR"),
        }
    }

    /// The state folder: `--state-dir`, else `$XDG_STATE_HOME/slackwater`, else `~/.local/state/slackwater`.
    ///
    /// # Errors
    /// [`NoHome`] where neither variable is set.
    pub fn state_dir(&self, flag: Option<PathBuf>) -> Result<PathBuf, NoHome> {
        if let Some(flag) = flag {
            return Ok(flag);
        }
        let below_home = self.home.as_ref().map(|home| home.join(".local/state"));
        let base = self.xdg_state_home.clone().or(below_home);
        base.map(|base| base.join("slackwater")).ok_or(NoHome {
            instead: "XDG_STATE_HOME",
        })
    }

    /// The workers' socket: `--worker-socket`, else `$XDG_RUNTIME_DIR/slackwater/worker.sock`, without that variable
    /// `worker.sock` in the state folder.
    ///
    /// # Errors
    /// [`NoHome`] where no variable leads to a folder.
    pub fn worker_socket(
        &self,
        flag: Option<PathBuf>,
        state_dir: Option<PathBuf>,
    ) -> Result<PathBuf, NoHome> {
        match (flag, &self.xdg_runtime_dir) {
            (Some(flag), _) => Ok(flag),
            (None, Some(runtime)) => Ok(runtime.join("slackwater/worker.sock")),
            (None, None) => Ok(self.state_dir(state_dir)?.join("worker.sock")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that `tests/wire/test_folders.py` reads too.
    const GOLDEN: &str = include_str!("../../../tests/wire/golden_folders.json");

    #[test]
    fn the_rule_gives_the_golden_folders() {
        let rows: Vec<serde_json::Value> = serde_json::from_str(GOLDEN).unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            let read = |name: &str| {
                row["env"][name]
                    .as_str()
                    .filter(|value| !value.is_empty())
                    .map(PathBuf::from)
            };
            let variables = Variables {
                home: read("HOME"),
                xdg_state_home: read("XDG_STATE_HOME"),
                xdg_runtime_dir: read("XDG_RUNTIME_DIR"),
            };
            let flag = || row["state_dir_flag"].as_str().map(PathBuf::from);
            let got = (
                variables.state_dir(flag()),
                variables.worker_socket(None, flag()),
            );
            let wanted = |name: &str| row[name].as_str().map(PathBuf::from);
            assert_eq!(
                (got.0.ok(), got.1.ok()),
                (wanted("state_dir"), wanted("socket")),
                "{row}"
            );
        }
    }
}
