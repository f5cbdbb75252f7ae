//! Announced lengths: each is checked where it is read, and costs nothing before its bytes have come.

use slackwater_zmtp::{Connection, Incoming, Limits, ZmtpError, check_message};

use crate::peer::{
    command, connected, frame, greeting, hello, long, message, parts, property, receive,
};

const HUGE: [u64; 5] = [1 << 30, 32 << 30, 1 << 40, 1 << 63, u64::MAX];

fn limits() -> Limits {
    Limits {
        max_frame: 1_000,
        max_parts: 3,
        max_message: 1_500,
        max_first_message: 300,
        ..Limits::default()
    }
}

#[test]
fn a_huge_length_before_ready_reserves_nothing() {
    for length in HUGE {
        for flags in [0, 1, 4] {
            let mut codec = Connection::new(Limits::default());
            let bytes = [greeting(), long(flags, length, b"")].concat();
            let limit = Limits::default().max_frame;
            let error = ZmtpError::FrameTooLarge {
                bytes: length,
                limit,
            };
            assert_eq!(receive(&mut codec, &bytes), (vec![], Some(error)));
            assert_eq!(codec.reserved(), 0);
        }
    }
}

#[test]
fn a_huge_length_after_ready_reserves_nothing() {
    for length in HUGE {
        let mut codec = connected(Limits::default());
        let limit = Limits::default().max_frame;
        let error = ZmtpError::FrameTooLarge {
            bytes: length,
            limit,
        };
        let bytes = [frame(1, b"part"), long(0, length, b"")].concat();
        assert_eq!(receive(&mut codec, &bytes), (vec![], Some(error)));
        assert_eq!(codec.reserved(), 0);
    }
}

#[test]
fn an_allowed_length_costs_one_step_until_its_bytes_come() {
    let mut codec = connected(Limits::default());
    let length = Limits::default().max_frame;
    let header = long(0, length as u64, b"");
    assert_eq!(receive(&mut codec, &header), (vec![], None));
    assert_eq!(codec.reserved(), 0);
    assert_eq!(receive(&mut codec, b"x"), (vec![], None));
    assert_eq!(codec.reserved(), 64 * 1024);
    let rest = vec![b'x'; length - 1];
    let (events, error) = receive(&mut codec, &rest);
    assert_eq!(error, None);
    let [Incoming::Message(parts)] = events.as_slice() else {
        panic!("{} events", events.len());
    };
    assert_eq!(
        parts.iter().map(bytes::Bytes::len).collect::<Vec<_>>(),
        [length]
    );
}

#[test]
fn a_hundred_thousand_empty_frames_end_at_the_ninth() {
    let mut codec = connected(Limits::default());
    let bytes = frame(1, b"").repeat(100_000);
    let mut input = bytes.as_slice();
    assert_eq!(
        codec.receive(&mut input),
        Err(ZmtpError::TooManyParts { limit: 8 })
    );
    assert_eq!(bytes.len() - input.len(), 9 * 2);
}

#[test]
fn parts_at_and_over_the_cap() {
    let at = [b"1".as_slice(), b"2", b"3"];
    let mut codec = connected(limits());
    assert_eq!(
        receive(&mut codec, &message(&at)),
        (vec![Incoming::Message(parts(&at))], None)
    );
    let over = [b"1".as_slice(), b"2", b"3", b"4"];
    let error = ZmtpError::TooManyParts { limit: 3 };
    assert_eq!(
        receive(&mut codec, &message(&over)),
        (vec![], Some(error.clone()))
    );
    assert_eq!(check_message(&parts(&at), &limits()), Ok(3));
    assert_eq!(check_message(&parts(&over), &limits()), Err(error));
    assert_eq!(check_message(&[], &limits()), Err(ZmtpError::NoParts));
}

#[test]
fn frames_at_and_over_the_cap() {
    let (at, over) = (vec![7; 1_000], vec![7; 1_001]);
    let mut codec = connected(limits());
    assert_eq!(
        receive(&mut codec, &message(&[&at])),
        (vec![Incoming::Message(parts(&[&at]))], None)
    );
    let error = ZmtpError::FrameTooLarge {
        bytes: 1_001,
        limit: 1_000,
    };
    assert_eq!(
        receive(&mut codec, &message(&[&over])),
        (vec![], Some(error.clone()))
    );
    assert_eq!(check_message(&parts(&[&over]), &limits()), Err(error));
}

#[test]
fn messages_at_and_over_the_cap() {
    let (at, over) = (vec![7; 500], vec![7; 501]);
    let full = vec![7; 1_000];
    let mut codec = connected(limits());
    // Twice, since the count starts again with each message.
    for _ in 0..2 {
        assert_eq!(
            receive(&mut codec, &message(&[&full, &at])),
            (vec![Incoming::Message(parts(&[&full, &at]))], None)
        );
    }
    let error = ZmtpError::MessageTooLarge {
        bytes: 1_501,
        limit: 1_500,
    };
    assert_eq!(
        receive(&mut codec, &message(&[&full, &over])),
        (vec![], Some(error.clone()))
    );
    assert_eq!(
        check_message(&parts(&[&full, &over]), &limits()),
        Err(error)
    );
}

#[test]
fn the_first_message_has_a_cap_of_its_own() {
    let first = |bytes: &[u8]| {
        let mut codec = Connection::new(limits());
        let (events, error) = receive(&mut codec, &[hello(), message(&[bytes])].concat());
        (events.len(), error)
    };
    assert_eq!(first(&[7; 300]), (2, None));
    let error = ZmtpError::MessageTooLarge {
        bytes: 301,
        limit: 300,
    };
    assert_eq!(first(&[7; 301]), (1, Some(error)));
}

#[test]
fn the_handshake_has_a_cap_of_its_own() {
    // 9 bytes of header, 6 of name, 23 of socket type; the rest is one property's value.
    let ready = |value: usize| {
        let properties = [
            property(b"Socket-Type", b"DEALER"),
            property(b"p", &vec![0; value]),
        ]
        .concat();
        [greeting(), command(b"READY", &properties)].concat()
    };
    let room = 512 - 9 - 6 - (1 + 11 + 4 + 6) - (1 + 1 + 4);
    let outcome = |value| receive(&mut Connection::new(Limits::default()), &ready(value));
    let (events, error) = outcome(room);
    assert_eq!((events.len(), error), (1, None));
    let error = ZmtpError::HandshakeTooLarge {
        bytes: 513,
        limit: 512,
    };
    assert_eq!(outcome(room + 1), (vec![], Some(error)));
}

#[test]
fn commands_after_ready_have_a_cap() {
    let mut codec = connected(Limits::default());
    let error = ZmtpError::CommandTooLarge {
        bytes: 513,
        limit: 512,
    };
    assert_eq!(
        receive(&mut codec, &long(4, 513, b"")),
        (vec![], Some(error))
    );
}
