"""The router's end of ZMTP against libzmq (pyzmq) and raw sockets.

Tests wait for the lines of `link_echo` and for messages, never for time. A test of a hostile peer ends with a good one.
"""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from support.link_echo import GREETING, HELLO, MIB, Echo, announced, build, command, frame, ready, received

HUGE = [1 << 30, 32 << 30, 1 << 40, 1 << 63, (1 << 64) - 1]
Start = Callable[..., Echo]
Connect = Callable[..., zmq.Socket[bytes]]


@pytest.fixture(scope="session")
def binary() -> Path:
    return build()


@pytest.fixture
def start(binary: Path, tmp_path: Path) -> Iterator[Start]:
    running: list[Echo] = []

    def start(*settings: str, endpoint: str | None = None) -> Echo:
        running.append(Echo(binary, endpoint or f"ipc://{tmp_path}/s{len(running)}", *settings))
        return running[-1]

    yield start
    for echo in running:
        echo.stop()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes libzmq sockets that are connected; keyword arguments are their options."""
    context = zmq.Context()
    sockets: list[zmq.Socket[bytes]] = []

    def connect(endpoint: str, socket_type: int = zmq.DEALER, **options: bytes | int) -> zmq.Socket[bytes]:
        peer = context.socket(socket_type)
        sockets.append(peer)
        for name, value in options.items():
            peer.setsockopt(getattr(zmq, name), value)
        peer.connect(endpoint)
        return peer

    yield connect
    for peer in sockets:
        peer.close(linger=0)
    context.term()


def dealer(connect: Connect, endpoint: str, **options: bytes | int) -> zmq.Socket[bytes]:
    """A DEALER that has had one message back."""
    peer = connect(endpoint, **options)
    peer.send(b"first")
    assert peer.recv() == b"first"
    return peer


@pytest.mark.parametrize("endpoint", [None, "tcp://127.0.0.1:0"], ids=["ipc", "tcp"])
def test_messages_keep_their_order_and_parts(start: Start, connect: Connect, endpoint: str | None) -> None:
    peer = dealer(connect, start(endpoint=endpoint).endpoint)
    total, window = 10_000, 100

    def message(number: int) -> list[bytes]:
        return [b"%d" % number, b"", bytes(number % 700), b"end"]

    for number in range(total + window):
        if number < total:
            peer.send_multipart(message(number))
        if number >= window:
            assert peer.recv_multipart() == message(number - window)


def test_two_peers_with_one_identity_are_two_peers(start: Start, connect: Connect) -> None:
    echo = start()
    one = dealer(connect, echo.endpoint, IDENTITY=b"same")
    two = dealer(connect, echo.endpoint, IDENTITY=b"same")
    for number in range(100):
        one.send(b"one %d" % number)
        two.send(b"two %d" % number)
        assert (one.recv(), two.recv()) == (b"one %d" % number, b"two %d" % number)
    two.close()
    assert echo.line("closed") == "closed c2 closed by the peer"
    one.send(b"still here")
    assert one.recv() == b"still here"


def test_a_killed_peer_is_reported(start: Start) -> None:
    echo = start()
    program = (
        "import sys, zmq; s = zmq.Context().socket(zmq.DEALER); s.connect(sys.argv[1]); s.send(b'x'); s.recv(); "
        "print('up', flush=True); s.recv()"
    )
    peer = subprocess.Popen([sys.executable, "-c", program, echo.endpoint], stdout=subprocess.PIPE, text=True)
    assert peer.stdout is not None
    with peer.stdout:
        assert peer.stdout.readline() == "up\n"
        peer.send_signal(signal.SIGKILL)
        assert peer.wait() == -signal.SIGKILL
    assert echo.line("closed") == "closed c1 closed by the peer"


def test_a_half_closed_peer_is_reported(start: Start) -> None:
    echo = start()
    with echo.raw(HELLO) as peer:
        echo.line("connected")
        peer.shutdown(socket.SHUT_WR)
        assert echo.line("closed") == "closed c1 closed by the peer"


@pytest.mark.parametrize("socket_type", [zmq.REQ, zmq.ROUTER, zmq.REP])
def test_other_libzmq_sockets_are_refused_by_name(start: Start, connect: Connect, socket_type: int) -> None:
    echo = start()
    connect(echo.endpoint, socket_type)
    assert "socket is not served here" in echo.line("refused")
    dealer(connect, echo.endpoint)


def test_a_peer_refused_by_its_type_is_told(start: Start) -> None:
    with start().raw(GREETING + ready(b"PUB")) as peer:
        assert received(peer, 64) == GREETING
        flags, length = received(peer, 2)
        error = received(peer, length)
        assert (flags, error[:6], b"DEALER" in error) == (4, b"\x05ERROR", True)
        assert peer.recv(1) == b""


HOSTILE = {
    "http": (b"GET / HTTP/1.1\r\n\r\n", "refused byte 0"),
    "signature_end": (GREETING[:9] + b"\0" + GREETING[10:], "refused byte 9"),
    "version_2": (GREETING[:10] + b"\x02" + GREETING[11:], "refused the peer speaks ZMTP 2"),
    "mechanism": (GREETING.replace(b"NULL", b"PLAI"), "refused the peer asks for mechanism"),
    "message_before_ready": (GREETING + frame(0, b"x"), "refused a message came before READY"),
    "ping_before_ready": (GREETING + command(b"PING", bytes(2)), "refused command"),
    "ready_over_cap": (GREETING + ready(padding=470), "refused 513 bytes are announced"),
    "ready_without_type": (GREETING + command(b"READY"), "refused a command is malformed"),
    "ready_cut": (GREETING + command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xffD"), "refused a command is malformed"),
    "empty_command_before": (GREETING + frame(4, b""), "refused a command is malformed"),
    "short_command_before": (GREETING + frame(4, b"\x05REA"), "refused a command is malformed"),
    "empty_command": (HELLO + frame(4, b""), "closed c1 a command is malformed"),
    "short_command": (HELLO + frame(4, b"\x04PI"), "closed c1 a command is malformed"),
    "unknown_command": (HELLO + command(b"SUBSCRIBE"), "closed c1 command"),
    "ready_twice": (HELLO + ready(), "closed c1 command"),
    "reserved_flags": (HELLO + frame(8, b""), "closed c1 frame flags 0x08"),
    "command_with_more": (HELLO + frame(5, b"\x04PING\0\0"), "closed c1 frame flags 0x05"),
    "empty_more_frames": (HELLO + frame(1, b"") * 100_000, "closed c1 a message has more than 8 frames"),
    "frame_over_cap": (HELLO + announced(0, 16 * MIB + 1), "closed c1 a frame of 16777217 bytes"),
    "message_over_cap": (
        HELLO + frame(1, bytes(16 * MIB)) * 2 + announced(0, 1),
        "closed c1 a message of 33554433 bytes",
    ),
    "first_message_over_cap": (GREETING + ready() + announced(0, 4097), "closed c1 a message of 4097 bytes"),
    "noise": (bytes(range(255, -1, -1)) * 256, "refused byte 9"),
}
HOSTILE |= {f"length_{n}_before": (GREETING + announced(0, n), f"refused a frame of {n} bytes") for n in HUGE}
HOSTILE |= {f"length_{n}_after": (HELLO + announced(1, n), f"closed c1 a frame of {n} bytes") for n in HUGE}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_peer_loses_its_connection_and_nothing_else(start: Start, connect: Connect, name: str) -> None:
    data, outcome = HOSTILE[name]
    echo = start()
    good = dealer(connect, echo.endpoint)
    before = echo.peak_bytes()
    with echo.raw(data):
        assert echo.line(outcome.split()[0]).startswith(outcome.replace("c1", "c2"))
    good.send(b"still here")
    assert good.recv() == b"still here"
    dealer(connect, echo.endpoint)
    assert echo.peak_bytes() - before <= (80 if name == "message_over_cap" else 32) * MIB


def test_half_open_peers_are_closed_in_time_and_keep_nobody_out(start: Start, connect: Connect) -> None:
    echo = start("handshake_millis=50", "pending=8")
    pieces = [b"", GREETING[:10], GREETING, GREETING + ready()[:5]]
    peers = [echo.raw(pieces[number % 4]) for number in range(40)]
    good = dealer(connect, echo.endpoint)
    refusals = [echo.line("refused") for _ in peers]
    causes = {line.removeprefix("refused ") for line in refusals}
    assert causes <= {"no handshake within 50ms", "more than 8 handshakes at once"}
    for peer in peers:
        peer.close()
    good.send(b"still here")
    assert good.recv() == b"still here"


def test_ping_is_answered_with_its_context(start: Start) -> None:
    with start().raw(GREETING + ready() + command(b"PING", b"\0\x0acontext")) as peer:
        assert received(peer, 64) == GREETING
        assert received(peer, len(ready(b"ROUTER"))) == ready(b"ROUTER")
        answer = command(b"PONG", b"context")
        assert received(peer, len(answer)) == answer


class Proxy:
    """Passes bytes on between a peer and the echo, and counts PING and PONG of each."""

    def __init__(self, echo: Echo, path: Path) -> None:
        self.endpoint = f"ipc://{path}"
        self.words: dict[bytes, int] = {}
        self.changed = threading.Condition()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.run, args=(echo,), daemon=True)
        self.thread.start()

    def run(self, echo: Echo) -> None:
        peer, _ = self.listener.accept()
        with peer, echo.raw() as other, self.listener:
            ways = {peer: (other, b"peer"), other: (peer, b"echo")}
            while True:
                for source in select.select(list(ways), [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    target, who = ways[source]
                    target.sendall(data)
                    with self.changed:
                        for word in (b"PING", b"PONG"):
                            self.words[who + word] = self.words.get(who + word, 0) + data.count(b"\x04" + word)
                        self.changed.notify_all()

    def wait(self, word: bytes, count: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.words.get(word, 0) >= count)


def test_pings_of_libzmq_are_answered(start: Start, connect: Connect, tmp_path: Path) -> None:
    proxy = Proxy(start(), tmp_path / "proxy")
    peer = dealer(connect, proxy.endpoint, HEARTBEAT_IVL=5, HEARTBEAT_TIMEOUT=60_000)
    proxy.wait(b"echoPONG", 5)
    peer.send(b"same connection")
    assert peer.recv() == b"same connection"
    peer.close()
    proxy.thread.join()


def test_libzmq_answers_our_pings(start: Start, connect: Connect, tmp_path: Path) -> None:
    proxy = Proxy(start("heartbeat_millis=20"), tmp_path / "proxy")
    peer = dealer(connect, proxy.endpoint)
    proxy.wait(b"peerPONG", 5)
    peer.send(b"same connection")
    assert peer.recv() == b"same connection"
    peer.close()
    proxy.thread.join()


def test_a_peer_that_answers_no_ping_is_closed(start: Start) -> None:
    echo = start("heartbeat_millis=5")
    with echo.raw(HELLO):
        assert echo.line("closed") == "closed c1 silent for 55ms"


def test_messages_at_the_caps_pass(start: Start, connect: Connect) -> None:
    peer = dealer(connect, start().endpoint)
    for message in ([b""] * 8, [bytes(16 * MIB)], [bytes(16 * MIB), bytes(16 * MIB)], [bytes(255), bytes(256)]):
        peer.send_multipart(message)
        assert peer.recv_multipart() == message


def test_a_handshake_at_its_cap_passes(start: Start) -> None:
    echo = start()
    with echo.raw(GREETING + ready(padding=469)):
        assert echo.line("connected") == "connected c1"


def test_a_stopped_peer_loses_its_connection_and_delays_nobody(start: Start, connect: Connect) -> None:
    echo = start("linger_millis=1")
    good = dealer(connect, echo.endpoint)
    stopped = echo.raw(HELLO)
    stopped.setblocking(False)
    rounds, overrun = 0, False
    while not overrun:
        try:
            stopped.send(frame(0, bytes(4096)))  # Never reads what comes back.
        except BlockingIOError:
            pytest.fail("the router stopped reading before its queue was full")
        except (BrokenPipeError, ConnectionResetError):
            overrun = True
        good.send(b"round %d" % rounds)
        assert good.recv() == b"round %d" % rounds
        rounds += 1
    lines = [echo.line("full"), echo.line("overrun")]
    assert lines == ["full c2 true", "overrun c2"]
    assert rounds > 512
    stopped.close()
