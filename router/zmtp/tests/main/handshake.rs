//! Greeting, READY and commands.

use slackwater_zmtp::greeting::PeerVersion;
use slackwater_zmtp::{Connection, Incoming, Limits, ZmtpError};

use crate::peer::{
    command, connected, frame, greeting, hello, message, parts, property, ready, receive, short,
};

const VERSION: PeerVersion = PeerVersion { major: 3, minor: 1 };

fn outcome(bytes: &[u8]) -> (Vec<Incoming>, Option<ZmtpError>) {
    receive(&mut Connection::new(Limits::default()), bytes)
}

fn error(bytes: &[u8]) -> ZmtpError {
    let (events, error) = outcome(bytes);
    assert_eq!(events, []);
    error.unwrap()
}

#[test]
fn a_dealer_is_greeted() {
    let mut codec = Connection::new(Limits::default());
    let mut ours = greeting();
    ours[8] = 0;
    assert_eq!(codec.take_outgoing(), ours);
    assert_eq!(receive(&mut codec, &greeting()), (vec![], None));
    assert_eq!(codec.take_outgoing(), []);
    assert_eq!(
        receive(&mut codec, &ready()),
        (vec![Incoming::Ready(VERSION)], None)
    );
    assert_eq!(
        codec.take_outgoing(),
        command(b"READY", &property(b"Socket-Type", b"ROUTER"))
    );
}

#[test]
fn a_claimed_identity_and_other_properties_are_ignored() {
    let properties = [
        property(b"Identity", b"router"),
        property(b"socket-type", b"DEALER"),
        property(b"X-Other", &[0xff; 100]),
    ]
    .concat();
    assert_eq!(
        outcome(&[greeting(), command(b"READY", &properties)].concat()),
        (vec![Incoming::Ready(VERSION)], None)
    );
}

#[test]
fn a_broken_greeting_is_refused_at_its_first_wrong_byte() {
    let with = |at: usize, byte: u8| {
        let mut bytes = greeting();
        bytes[at] = byte;
        bytes.truncate(at + 1);
        bytes
    };
    assert_eq!(
        error(&with(0, 0xfe)),
        ZmtpError::Signature { at: 0, byte: 0xfe }
    );
    assert_eq!(
        error(&with(9, 0x7e)),
        ZmtpError::Signature { at: 9, byte: 0x7e }
    );
    assert_eq!(
        error(b"GET / HTTP/1.1\r\n"),
        ZmtpError::Signature { at: 0, byte: b'G' }
    );
    assert_eq!(error(&with(10, 2)), ZmtpError::Version { major: 2 });
    let mechanism = |name: &[u8]| {
        let mut bytes = greeting();
        bytes[12..32].fill(0);
        bytes[12..12 + name.len()].copy_from_slice(name);
        error(&bytes)
    };
    for name in ["PLAIN", "CURVE", "NULLX", "NUL", ""] {
        let name = name.to_owned();
        assert_eq!(mechanism(name.as_bytes()), ZmtpError::Mechanism { name });
    }
}

#[test]
fn a_newer_peer_is_served_and_an_older_minor_gets_no_ping() {
    for (major, minor, has_ping) in [(3, 0, false), (3, 1, true), (3, 2, true), (4, 0, true)] {
        let mut bytes = hello();
        bytes[10..12].copy_from_slice(&[major, minor]);
        let version = PeerVersion { major, minor };
        assert_eq!(outcome(&bytes), (vec![Incoming::Ready(version)], None));
        assert_eq!(version.has_ping(), has_ping);
    }
}

#[test]
fn only_a_dealer_is_served_and_others_are_told() {
    for name in ["REQ", "ROUTER", "PUB", "dealer", "", "\u{1f30a}"] {
        let mut codec = Connection::new(Limits::default());
        codec.take_outgoing();
        let bytes = [
            greeting(),
            command(b"READY", &property(b"Socket-Type", name.as_bytes())),
        ]
        .concat();
        let (events, error) = receive(&mut codec, &bytes);
        let error = error.unwrap();
        assert_eq!(events, []);
        assert!(matches!(error, ZmtpError::SocketType { .. }), "{error:?}");
        let reason = error.to_string();
        let mut data = vec![u8::try_from(reason.len()).unwrap()];
        data.extend_from_slice(reason.as_bytes());
        assert_eq!(codec.take_outgoing(), command(b"ERROR", &data));
        // From now on nothing else is said or understood.
        assert_eq!(receive(&mut codec, &ready()), (vec![], Some(error)));
    }
}

#[test]
fn a_malformed_ready_is_refused() {
    let ready = |data: &[u8]| error(&[greeting(), command(b"READY", data)].concat());
    let whole = property(b"Socket-Type", b"DEALER");
    for data in [
        [].as_slice(),
        &whole[..whole.len() - 1],
        &whole[..13],
        &whole[..5],
        &[0, 0, 0, 0, 0],
        &[&whole[..], &whole[..]].concat(),
        &property(b"Identity", b"x"),
        b"\x0bSocket-Type\xff\xff\xff\xffDEALER",
        b"\x0bSocket-Type\x7f\xff\xff\xffDEALER",
        b"\xffSocket-Type",
    ] {
        let error = ready(data);
        assert!(
            matches!(error, ZmtpError::Command { .. }),
            "{data:?}: {error:?}"
        );
    }
}

#[test]
fn short_and_empty_commands_are_refused_before_and_after_ready() {
    for body in [b"".as_slice(), b"\x05", b"\x05READ", b"\xffPING"] {
        let frame = short(4, body);
        let before = error(&[greeting(), frame.clone()].concat());
        assert!(matches!(before, ZmtpError::Command { .. }), "{before:?}");
        let (events, after) = receive(&mut connected(Limits::default()), &frame);
        assert_eq!(events, []);
        assert!(
            matches!(after, Some(ZmtpError::Command { .. })),
            "{after:?}"
        );
    }
}

#[test]
fn a_command_has_its_place() {
    let unexpected = |name: &str| ZmtpError::UnexpectedCommand {
        name: name.to_owned(),
    };
    let before = |bytes: Vec<u8>| error(&[greeting(), bytes].concat());
    let after = |bytes: Vec<u8>| {
        receive(&mut connected(Limits::default()), &bytes)
            .1
            .unwrap()
    };
    assert_eq!(before(command(b"PING", &[0, 0])), unexpected("PING"));
    assert_eq!(before(command(b"PONG", &[])), unexpected("PONG"));
    assert_eq!(before(command(b"HELLO", &[])), unexpected("HELLO"));
    assert_eq!(after(ready()), unexpected("READY"));
    assert_eq!(after(command(b"SUBSCRIBE", b"x")), unexpected("SUBSCRIBE"));
    assert_eq!(before(message(&[b"early"])), ZmtpError::MessageBeforeReady);
    let refused = ZmtpError::PeerRefused {
        reason: "no\\n".to_owned(),
    };
    assert_eq!(before(command(b"ERROR", b"\x03no\n")), refused);
    assert_eq!(after(command(b"ERROR", b"\x03no\n")), refused);
}

#[test]
fn ping_is_answered_with_its_context_also_between_frames() {
    let mut codec = connected(Limits::default());
    let bytes = [
        frame(1, b"a"),
        command(b"PING", b"\x00\x0acontext"),
        command(b"PONG", b""),
        frame(0, b"b"),
    ]
    .concat();
    let expected = vec![
        Incoming::Ping,
        Incoming::Pong,
        Incoming::Message(parts(&[b"a", b"b"])),
    ];
    assert_eq!(receive(&mut codec, &bytes), (expected, None));
    assert_eq!(codec.take_outgoing(), command(b"PONG", b"context"));
}

#[test]
fn ping_and_pong_have_their_bounds() {
    let after = |bytes: Vec<u8>| receive(&mut connected(Limits::default()), &bytes).1;
    assert_eq!(after(command(b"PING", &[0; 18])), None);
    assert_eq!(after(command(b"PONG", &[0; 16])), None);
    for bytes in [
        command(b"PING", &[0; 19]),
        command(b"PING", &[0]),
        command(b"PONG", &[0; 17]),
    ] {
        assert!(matches!(after(bytes), Some(ZmtpError::Command { .. })));
    }
}

#[test]
fn flags_without_a_meaning_are_refused() {
    for flags in [8, 16, 32, 64, 128, 255, 5, 7] {
        let (_, error) = receive(&mut connected(Limits::default()), &short(flags, b""));
        assert_eq!(error, Some(ZmtpError::Flags { flags }));
    }
}
