//! A typed message to frames and back. Decoding checks everything that the types alone cannot: extents, ranges, alignment.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::WireError;
use crate::frame::{Frames, ids_from_bytes, ids_to_bytes};
use crate::kind::Kind;
use crate::messages::{
    Accepted, Bye, Cancel, Credit, Heartbeat, Hello, Ready, Refused, RouterHeartbeat, StepOutputs,
    Submit, Welcome, WorkerStats,
};

/// Any message, with its array parts decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`Ready`].
    Ready(Ready),
    /// See [`Submit`]; the ids are prompt, then output history.
    Submit(Submit, Vec<u32>),
    /// See [`Accepted`].
    Accepted(Accepted),
    /// See [`Refused`].
    Refused(Refused),
    /// See [`StepOutputs`]; the ids are the sampled tokens in the order of `outputs`.
    StepOutputs(StepOutputs, Vec<u32>),
    /// See [`Credit`].
    Credit(Credit),
    /// See [`Cancel`].
    Cancel(Cancel),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`RouterHeartbeat`].
    RouterHeartbeat(RouterHeartbeat),
    /// See [`WorkerStats`].
    WorkerStats(WorkerStats),
    /// See [`Bye`].
    Bye(Bye),
}

impl Message {
    /// The kind byte that this message travels under.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Ready(_) => Kind::Ready,
            Self::Submit(..) => Kind::Submit,
            Self::Accepted(_) => Kind::Accepted,
            Self::Refused(_) => Kind::Refused,
            Self::StepOutputs(..) => Kind::StepOutputs,
            Self::Credit(_) => Kind::Credit,
            Self::Cancel(_) => Kind::Cancel,
            Self::Heartbeat(_) => Kind::Heartbeat,
            Self::RouterHeartbeat(_) => Kind::RouterHeartbeat,
            Self::WorkerStats(_) => Kind::WorkerStats,
            Self::Bye(_) => Kind::Bye,
        }
    }

    /// The sequence number, for the kinds that carry one.
    pub const fn seq(&self) -> Option<u64> {
        match self {
            Self::Hello(_) | Self::Welcome(_) => None,
            Self::Ready(m) => Some(m.seq),
            Self::Submit(m, _) => Some(m.seq),
            Self::Accepted(m) => Some(m.seq),
            Self::Refused(m) => Some(m.seq),
            Self::StepOutputs(m, _) => Some(m.seq),
            Self::Credit(m) => Some(m.seq),
            Self::Cancel(m) => Some(m.seq),
            Self::Heartbeat(m) => Some(m.seq),
            Self::RouterHeartbeat(m) => Some(m.seq),
            Self::WorkerStats(m) => Some(m.seq),
            Self::Bye(m) => Some(m.seq),
        }
    }
}

/// Encodes a message.
///
/// # Errors
/// [`WireError::Body`] where a body cannot be written as JSON, [`WireError::OutOfRange`] where a number that must be
/// finite is not (JSON would turn it into `null`), [`WireError::Extent`] where ids and counts disagree.
pub fn encode(message: &Message) -> Result<Frames, WireError> {
    check(message)?;
    let kind = message.kind();
    let body = match message {
        Message::Hello(m) => body(kind, m),
        Message::Welcome(m) => body(kind, m),
        Message::Ready(m) => body(kind, m),
        Message::Submit(m, _) => body(kind, m),
        Message::Accepted(m) => body(kind, m),
        Message::Refused(m) => body(kind, m),
        Message::StepOutputs(m, _) => body(kind, m),
        Message::Credit(m) => body(kind, m),
        Message::Cancel(m) => body(kind, m),
        Message::Heartbeat(m) => body(kind, m),
        Message::RouterHeartbeat(m) => body(kind, m),
        Message::WorkerStats(m) => body(kind, m),
        Message::Bye(m) => body(kind, m),
    }?;
    let ids = match message {
        Message::Submit(_, ids) | Message::StepOutputs(_, ids) => ids_to_bytes(ids.iter().copied()),
        _ => Vec::new(),
    };
    Ok(Frames {
        kind: kind as u8,
        body,
        ids,
        floats: Vec::new(),
    })
}

/// Decodes a message and checks it whole.
///
/// # Errors
/// Any [`WireError`]; the receiver then closes the link.
pub fn decode(frames: &Frames) -> Result<Message, WireError> {
    let kind = Kind::try_from(frames.kind)?;
    let name = kind.name();
    let ids = || ids_from_bytes(name, &frames.ids);
    let message = match kind {
        Kind::Hello => Message::Hello(parse(kind, &frames.body)?),
        Kind::Welcome => Message::Welcome(parse(kind, &frames.body)?),
        Kind::Ready => Message::Ready(parse(kind, &frames.body)?),
        Kind::Submit => Message::Submit(parse(kind, &frames.body)?, ids()?),
        Kind::Accepted => Message::Accepted(parse(kind, &frames.body)?),
        Kind::Refused => Message::Refused(parse(kind, &frames.body)?),
        Kind::StepOutputs => Message::StepOutputs(parse(kind, &frames.body)?, ids()?),
        Kind::Credit => Message::Credit(parse(kind, &frames.body)?),
        Kind::Cancel => Message::Cancel(parse(kind, &frames.body)?),
        Kind::Heartbeat => Message::Heartbeat(parse(kind, &frames.body)?),
        Kind::RouterHeartbeat => Message::RouterHeartbeat(parse(kind, &frames.body)?),
        Kind::WorkerStats => Message::WorkerStats(parse(kind, &frames.body)?),
        Kind::Bye => Message::Bye(parse(kind, &frames.body)?),
    };
    let uses_ids = matches!(kind, Kind::Submit | Kind::StepOutputs);
    if !uses_ids && !frames.ids.is_empty() {
        return Err(extent(name, "(none)", "ids", 0, frames.ids.len() / 4));
    }
    if !frames.floats.is_empty() {
        return Err(extent(name, "(none)", "floats", 0, frames.floats.len() / 4));
    }
    check(&message)?;
    Ok(message)
}

fn body<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, WireError> {
    serde_json::to_vec(value).map_err(|error| WireError::Body {
        kind: kind.name(),
        message: error.to_string(),
        preview: String::new(),
    })
}

fn parse<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, WireError> {
    let refused = |message: String| WireError::Body {
        kind: kind.name(),
        message,
        preview: String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes)).into_owned(),
    };
    // serde also reads a struct from an array of its fields in order, which the other language would not.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(refused("the body is not a JSON object".to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))
}

fn extent(
    kind: &'static str,
    field: &'static str,
    part: &'static str,
    wanted: u64,
    present: usize,
) -> WireError {
    WireError::Extent {
        kind,
        field,
        part,
        wanted,
        present: present as u64,
    }
}

/// What the types cannot say, checked on both ways.
fn check(message: &Message) -> Result<(), WireError> {
    match message {
        Message::Submit(submit, ids) => {
            submit.params.check()?;
            // At least one prompt token must be left once the history is taken off the end.
            if submit.num_output_tokens as usize >= ids.len() {
                let wanted = u64::from(submit.num_output_tokens) + 1;
                return Err(extent(
                    "Submit",
                    "num_output_tokens",
                    "ids",
                    wanted,
                    ids.len(),
                ));
            }
            Ok(())
        }
        Message::StepOutputs(step, ids) => {
            let wanted: u64 = step
                .outputs
                .iter()
                .map(|output| u64::from(output.num_tokens))
                .sum();
            if wanted != ids.len() as u64 {
                return Err(extent(
                    "StepOutputs",
                    "num_tokens",
                    "ids",
                    wanted,
                    ids.len(),
                ));
            }
            Ok(())
        }
        Message::WorkerStats(stats)
            if stats.metrics.iter().any(|metric| !metric.value.is_finite()) =>
        {
            Err(WireError::OutOfRange {
                kind: "WorkerStats",
                field: "metrics.value",
            })
        }
        _ => Ok(()),
    }
}
