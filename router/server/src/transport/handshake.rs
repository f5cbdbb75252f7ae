//! The handshake: HELLO is answered by WELCOME or Bye, READY is taken or answered by Bye.
//!
//! Plain state without any IO. It issues worker ids and epochs; what a peer claims to be is never a name here.

use slackwater_core::{Capabilities, Epoch, WorkerId};
use slackwater_wire::messages::{ByeCode, Hello, Ready};

use super::map;
use super::tokens::{Holder, TokenBook};

/// The model that this router's folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its name, as `prepare` printed it.
    pub model_name: String,
    /// Hash of tokeniser and chat template, 16 hex digits.
    pub text_hash: String,
}

/// Why a peer is sent away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the peer's program.
    pub code: ByeCode,
    /// For people: what to do about it.
    pub message: String,
}

/// A link whose HELLO was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The worker's name.
    pub worker: WorkerId,
    /// The link's.
    pub epoch: Epoch,
    /// Whether it is an own child.
    pub own: bool,
    /// What it says its process is, for the log.
    pub pid: u32,
}

/// Admits links and remembers which are live.
pub struct Door {
    expected: Expected,
    tokens: TokenBook,
    max_workers: usize,
    live: usize,
    next_joined: u32,
    start_bits: u32,
    links: u32,
}

impl Door {
    /// A door; `start_bits` are random and make this start's epochs differ from those of any other.
    pub fn new(expected: Expected, tokens: TokenBook, max_workers: usize, start_bits: u32) -> Self {
        Self {
            expected,
            tokens,
            max_workers,
            live: 0,
            next_joined: 0,
            start_bits,
            links: 0,
        }
    }

    /// The tokens.
    pub const fn tokens(&self) -> &TokenBook {
        &self.tokens
    }

    /// A token for a child that is about to start. Workers that join get ids above those of all children.
    pub fn launch(&mut self, worker: WorkerId) -> String {
        self.next_joined = self.next_joined.max(worker.0.saturating_add(1));
        self.tokens.launch(worker).reveal()
    }

    /// A child has exited.
    pub fn exited(&mut self, worker: WorkerId) {
        self.tokens.exited(worker);
    }

    /// Takes a HELLO.
    ///
    /// # Errors
    /// The Bye that answers it instead of WELCOME.
    pub fn hello(&mut self, hello: &Hello) -> Result<Admission, Refusal> {
        let ours = slackwater_wire::schema::hash();
        if hello.schema_hash != ours {
            return Err(Refusal {
                code: ByeCode::SchemaMismatch,
                message: format!(
                    "this router speaks wire schema {ours}; install the same version of slackwater on both sides"
                ),
            });
        }
        let holder = self.tokens.check(&hello.token).map_err(|error| Refusal {
            code: ByeCode::BadToken,
            message: error.to_string(),
        })?;
        if self.live >= self.max_workers {
            return Err(Refusal {
                code: ByeCode::TooManyWorkers,
                message: format!("{} workers are connected, which is the limit", self.live),
            });
        }
        Ok(self.admit(holder, hello.pid))
    }

    fn admit(&mut self, holder: Holder, pid: u32) -> Admission {
        self.live += 1;
        self.links = self.links.wrapping_add(1);
        let epoch = Epoch(u64::from(self.start_bits) << 32 | u64::from(self.links));
        let (worker, own) = match holder {
            Holder::Own(worker) => {
                self.tokens.enter(worker, epoch);
                (worker, true)
            }
            Holder::Joined => {
                let worker = WorkerId(self.next_joined);
                self.next_joined = self.next_joined.saturating_add(1);
                (worker, false)
            }
        };
        Admission {
            worker,
            epoch,
            own,
            pid,
        }
    }

    /// Takes a READY.
    ///
    /// # Errors
    /// The Bye that answers it.
    pub fn ready(&self, ready: &Ready, own: bool) -> Result<Capabilities, Refusal> {
        let Expected {
            model_name,
            text_hash,
        } = &self.expected;
        if ready.model_name != *model_name || ready.text_hash != *text_hash {
            return Err(Refusal {
                code: ByeCode::ModelMismatch,
                message: format!(
                    "this router serves {model_name:?} with tokeniser and template {text_hash}, the worker has {:?} with {:?}; give both the same folder",
                    ready.model_name, ready.text_hash
                ),
            });
        }
        if ready.vocab_size == 0 || ready.max_model_len == 0 || ready.slots == 0 {
            return Err(Refusal {
                code: ByeCode::Violation,
                message: "READY declares no vocabulary, no context or no slots".to_owned(),
            });
        }
        Ok(map::capabilities(ready, own))
    }

    /// A link that was admitted has ended.
    pub fn left(&mut self, admission: &Admission) {
        self.live = self.live.saturating_sub(1);
        if admission.own {
            self.tokens.left(admission.worker, admission.epoch);
        }
    }
}
