//! A typed message to frames and back. Decoding checks everything that the types alone cannot: extents, ranges, alignment.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::WireError;
use crate::extents;
use crate::frame::{Frames, floats_from_bytes, floats_to_bytes, ids_from_bytes, ids_to_bytes};
use crate::kind::Kind;
use crate::messages::{
    Accepted, AskBlocks, BlocksCleared, BlocksRemoved, BlocksStored, Bye, Cancel, Credit,
    Heartbeat, Hello, Ready, Refused, RouterHeartbeat, StepOutputs, Submit, Welcome, WorkerStats,
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
    /// See [`Submit`], which says what the ids and the floats are.
    Submit(Submit, Vec<u32>, Vec<f32>),
    /// See [`Accepted`].
    Accepted(Accepted),
    /// See [`Refused`].
    Refused(Refused),
    /// See [`StepOutputs`], which says what the ids and the floats are.
    StepOutputs(StepOutputs, Vec<u32>, Vec<f32>),
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
    /// See [`AskBlocks`].
    AskBlocks(AskBlocks),
    /// See [`BlocksStored`], which says what the words are.
    BlocksStored(BlocksStored, Vec<u32>),
    /// See [`BlocksRemoved`], which says what the words are.
    BlocksRemoved(BlocksRemoved, Vec<u32>),
    /// See [`BlocksCleared`].
    BlocksCleared(BlocksCleared),
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
            Self::AskBlocks(_) => Kind::AskBlocks,
            Self::BlocksStored(..) => Kind::BlocksStored,
            Self::BlocksRemoved(..) => Kind::BlocksRemoved,
            Self::BlocksCleared(_) => Kind::BlocksCleared,
        }
    }

    /// The sequence number, for the kinds that carry one.
    pub const fn seq(&self) -> Option<u64> {
        match self {
            Self::Hello(_) | Self::Welcome(_) => None,
            Self::Ready(m) => Some(m.seq),
            Self::Submit(m, ..) => Some(m.seq),
            Self::Accepted(m) => Some(m.seq),
            Self::Refused(m) => Some(m.seq),
            Self::StepOutputs(m, ..) => Some(m.seq),
            Self::Credit(m) => Some(m.seq),
            Self::Cancel(m) => Some(m.seq),
            Self::Heartbeat(m) => Some(m.seq),
            Self::RouterHeartbeat(m) => Some(m.seq),
            Self::WorkerStats(m) => Some(m.seq),
            Self::Bye(m) => Some(m.seq),
            Self::AskBlocks(m) => Some(m.seq),
            Self::BlocksStored(m, _) => Some(m.seq),
            Self::BlocksRemoved(m, _) => Some(m.seq),
            Self::BlocksCleared(m) => Some(m.seq),
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
        Message::Submit(m, ..) => body(kind, m),
        Message::Accepted(m) => body(kind, m),
        Message::Refused(m) => body(kind, m),
        Message::StepOutputs(m, ..) => body(kind, m),
        Message::Credit(m) => body(kind, m),
        Message::Cancel(m) => body(kind, m),
        Message::Heartbeat(m) => body(kind, m),
        Message::RouterHeartbeat(m) => body(kind, m),
        Message::WorkerStats(m) => body(kind, m),
        Message::Bye(m) => body(kind, m),
        Message::AskBlocks(m) => body(kind, m),
        Message::BlocksStored(m, _) => body(kind, m),
        Message::BlocksRemoved(m, _) => body(kind, m),
        Message::BlocksCleared(m) => body(kind, m),
    }?;
    let (ids, floats): (&[u32], &[f32]) = match message {
        Message::Submit(_, ids, floats) | Message::StepOutputs(_, ids, floats) => (ids, floats),
        Message::BlocksStored(_, ids) | Message::BlocksRemoved(_, ids) => (ids, &[]),
        _ => (&[], &[]),
    };
    Ok(Frames {
        kind: kind as u8,
        body,
        ids: ids_to_bytes(ids.iter().copied()),
        floats: floats_to_bytes(floats),
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
    let floats = || floats_from_bytes(name, &frames.floats);
    let message = match kind {
        Kind::Hello => Message::Hello(parse(kind, &frames.body)?),
        Kind::Welcome => Message::Welcome(parse(kind, &frames.body)?),
        Kind::Ready => Message::Ready(parse(kind, &frames.body)?),
        Kind::Submit => Message::Submit(parse(kind, &frames.body)?, ids()?, floats()?),
        Kind::Accepted => Message::Accepted(parse(kind, &frames.body)?),
        Kind::Refused => Message::Refused(parse(kind, &frames.body)?),
        Kind::StepOutputs => Message::StepOutputs(parse(kind, &frames.body)?, ids()?, floats()?),
        Kind::Credit => Message::Credit(parse(kind, &frames.body)?),
        Kind::Cancel => Message::Cancel(parse(kind, &frames.body)?),
        Kind::Heartbeat => Message::Heartbeat(parse(kind, &frames.body)?),
        Kind::RouterHeartbeat => Message::RouterHeartbeat(parse(kind, &frames.body)?),
        Kind::WorkerStats => Message::WorkerStats(parse(kind, &frames.body)?),
        Kind::Bye => Message::Bye(parse(kind, &frames.body)?),
        Kind::AskBlocks => Message::AskBlocks(parse(kind, &frames.body)?),
        Kind::BlocksStored => Message::BlocksStored(parse(kind, &frames.body)?, ids()?),
        Kind::BlocksRemoved => Message::BlocksRemoved(parse(kind, &frames.body)?, ids()?),
        Kind::BlocksCleared => Message::BlocksCleared(parse(kind, &frames.body)?),
    };
    let uses_floats = matches!(kind, Kind::Submit | Kind::StepOutputs);
    let uses_ids = uses_floats || matches!(kind, Kind::BlocksStored | Kind::BlocksRemoved);
    if !uses_ids && !frames.ids.is_empty() {
        return Err(extent(name, "(none)", "ids", 0, frames.ids.len() / 4));
    }
    if !uses_floats && !frames.floats.is_empty() {
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

pub(crate) fn extent(
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
        Message::Submit(submit, ids, floats) => extents::submit(submit, ids, floats),
        Message::StepOutputs(step, ids, floats) => extents::step(step, ids, floats),
        Message::BlocksStored(m, words) => extents::blocks("BlocksStored", m.num_blocks, 6, words),
        Message::BlocksRemoved(m, words) => {
            extents::blocks("BlocksRemoved", m.num_blocks, 4, words)
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
