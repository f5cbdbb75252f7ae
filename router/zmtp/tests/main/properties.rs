//! Arbitrary bytes in arbitrary pieces: an error or messages, never a panic, never memory beyond the caps.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use slackwater_zmtp::{Connection, Incoming, Limits, ZmtpError, encode_message};

use crate::peer::{command, frame, greeting, hello, long, message, ready, short};

fn limits() -> Limits {
    Limits {
        max_frame: 600,
        max_parts: 3,
        max_message: 1_000,
        max_first_message: 700,
        ..Limits::default()
    }
}

/// Pieces that look like a peer's, so that arbitrary streams come further than the first byte.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => Just(ready()),
        4 => vec(vec(any::<u8>(), 0..300), 1..4)
            .prop_map(|parts| message(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())),
        2 => (0..8_u8, vec(any::<u8>(), 0..40)).prop_map(|(flags, body)| short(flags & !2, &body)),
        1 => (0..8_u8, any::<u64>()).prop_map(|(flags, length)| long(flags, length, b"")),
        1 => (0..8_u8, 0..700_u64, vec(any::<u8>(), 0..50)).prop_map(|(flags, length, body)| long(flags, length, &body)),
        1 => vec(any::<u8>(), 0..20).prop_map(|data| command(b"PING", &data)),
        1 => vec(any::<u8>(), 0..20).prop_map(|data| command(b"READY", &data)),
        1 => vec(any::<u8>(), 0..50),
    ]
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![Just(greeting()), Just(hello()), Just(Vec::new())];
    (start, vec(pieces(), 0..12)).prop_map(|(start, pieces)| [start, pieces.concat()].concat())
}

/// Feeds the bytes in pieces cut at `cuts`; what they meant, and the error that ended them.
fn feed(
    bytes: &[u8],
    cuts: &[prop::sample::Index],
) -> Result<(Vec<Incoming>, Option<ZmtpError>), TestCaseError> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    let mut codec = Connection::new(limits());
    let mut events = Vec::new();
    for window in places.windows(2) {
        let mut input = &bytes[window[0]..window[1]];
        loop {
            let outcome = codec.receive(&mut input);
            prop_assert!(codec.reserved() <= limits().max_message);
            prop_assert!(codec.take_outgoing().len() <= 512);
            match outcome {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return Ok((events, Some(error))),
            }
        }
        prop_assert!(input.is_empty());
    }
    Ok((events, None))
}

fn in_bounds(events: &[Incoming]) -> bool {
    events.iter().all(|event| match event {
        Incoming::Message(parts) => {
            let bytes: usize = parts.iter().map(Bytes::len).sum();
            (1..=3).contains(&parts.len()) && bytes <= 1_000
        }
        Incoming::Ready(_) | Incoming::Ping | Incoming::Pong => true,
    })
}

proptest! {
    #[test]
    fn arbitrary_streams_stay_within_the_caps(
        bytes in streams(), cuts in vec(any::<prop::sample::Index>(), 0..20)
    ) {
        let whole = feed(&bytes, &[])?;
        prop_assert!(in_bounds(&whole.0));
        // How the bytes are cut changes nothing.
        prop_assert_eq!(feed(&bytes, &cuts)?, whole);
    }

    #[test]
    fn messages_survive(
        messages in vec(vec(vec(any::<u8>(), 0..300), 1..4), 0..6),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut bytes = [hello(), frame(0, b"")].concat();
        let mut expected = vec![vec![Bytes::new()]];
        for parts in messages {
            let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
            encode_message(&parts, &mut bytes);
            expected.push(parts);
        }
        let (events, error) = feed(&bytes, &cuts)?;
        prop_assert_eq!(error, None);
        let expected: Vec<Incoming> = expected.into_iter().map(Incoming::Message).collect();
        prop_assert_eq!(&events[1..], expected.as_slice());
    }
}
