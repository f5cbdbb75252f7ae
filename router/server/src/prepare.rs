//! Runs `slackwater-worker prepare`, which resolves and converts a model, and reads its answer.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;

use crate::start::StartError;

/// What `prepare` prints.
#[derive(Debug, Deserialize)]
pub struct Prepared {
    /// The model's name for clients.
    pub name: String,
    /// Its folder.
    pub model_dir: PathBuf,
}

/// Resolves and converts the model in a process of its own; its progress goes to our standard error.
///
/// # Errors
/// [`StartError::Prepare`] where it cannot be run or gives no answer, [`StartError::NotPrepared`] where it failed.
pub async fn prepare_model(program: &Path, model: &str) -> Result<Prepared, StartError> {
    let failed = |what: String| StartError::Prepare {
        program: program.to_owned(),
        what,
    };
    let cannot = |error| failed(format!("cannot be run: {error}"));
    // Spawned and waited for by hand: tokio's `output` would take standard error as well, and with it the progress.
    let child = tokio::process::Command::new(program)
        .arg("prepare")
        .arg(model)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    let output = child.wait_with_output().await.map_err(cannot)?;
    if !output.status.success() {
        return Err(StartError::NotPrepared {
            exit_code: output.status.code().unwrap_or(1),
        });
    }
    let line = output
        .stdout
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty())
        .unwrap_or_default();
    serde_json::from_slice(line)
        .map_err(|error| failed(format!("prepare printed no answer: {error}")))
}
