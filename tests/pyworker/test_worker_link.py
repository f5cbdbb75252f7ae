"""The link over libzmq: what it promises of the end of a connection, and that it never waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import zmq
from support.fake_router import PATIENCE, FakeRouter
from support.worker_rig import short_folder

from pyworker.transport.link import LinkClosed, LinkFull, LinkState, Waker
from pyworker.transport.zmq import ZmqLink, ZmqLinks
from pyworker.wire import messages as wire
from pyworker.wire.frame import encode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELLO = encode(wire.Hello(schema_hash="x", token="y", pid=1))
BYE = encode(wire.Bye(seq=0, code=wire.ByeCode.bad_token, message="no"))


class Rig:
    """Makes links to one endpoint."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder / 'w.sock'}"
        self.waker = Waker()
        self.links = ZmqLinks()
        self.made: list[ZmqLink] = []

    def link(self) -> ZmqLink:
        link = self.links(self.endpoint, self.waker)
        assert isinstance(link, ZmqLink)
        self.made.append(link)
        link.start()
        return link

    def close(self) -> None:
        for link in self.made:
            link.close()
            link.close()
        self.links.close()
        self.waker.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def rig(folder: Path) -> Iterator[Rig]:
    rig = Rig(folder)
    yield rig
    rig.close()


def await_state(link: ZmqLink, state: LinkState) -> list[list[bytes]]:
    """What came until the link was in this state."""
    deadline, found = time.monotonic() + PATIENCE, []
    while link.state is not state:
        assert time.monotonic() < deadline
        if (parts := link.recv(PATIENCE)) is not None:
            found.append(list(parts))
    return found


def test_nobody_there_is_a_link_that_ends(rig: Rig) -> None:
    link = rig.link()
    assert await_state(link, LinkState.CLOSED) == []
    with pytest.raises(LinkClosed):
        link.send(HELLO)


def test_nothing_can_be_sent_before_the_handshake(rig: Rig, folder: Path) -> None:
    with FakeRouter(folder):
        link = rig.link()
        with pytest.raises(LinkClosed):
            link.send(HELLO)
        await_state(link, LinkState.OPEN)
        link.send(HELLO)


def test_the_last_word_of_a_router_that_hangs_up_is_heard(rig: Rig, folder: Path) -> None:
    """libzmq drops it under some options: said and hung up in one go, it must come every time."""
    for _ in range(50):
        with FakeRouter(folder) as router:
            link = rig.link()
            await_state(link, LinkState.OPEN)
            link.send(HELLO)
            router.hello().send_raw(BYE)
            router.cut()
            assert await_state(link, LinkState.CLOSED) == [list(BYE)]
            link.close()


def test_a_link_does_not_come_back(rig: Rig, folder: Path) -> None:
    with FakeRouter(folder) as router:
        link = rig.link()
        await_state(link, LinkState.OPEN)
        router.cut()
        await_state(link, LinkState.CLOSED)
        router.listen()
        other = rig.link()
        await_state(other, LinkState.OPEN)
        other.send(HELLO)
        router.hello().send_raw(BYE)
        assert other.recv(PATIENCE) is not None
        assert link.recv(0.0) is None
        assert link.state is LinkState.CLOSED


def test_the_waker_ends_a_wait(rig: Rig, folder: Path) -> None:
    with FakeRouter(folder):
        link = rig.link()
        await_state(link, LinkState.OPEN)
        rig.waker.set()
        rig.waker.set()
        before = time.monotonic()
        assert link.recv(PATIENCE) is None
        assert time.monotonic() - before < PATIENCE / 2


def test_a_peer_that_never_reads_is_noticed_and_not_waited_for(rig: Rig, folder: Path) -> None:
    with FakeRouter(folder) as router:
        router.socket.setsockopt(zmq.RCVHWM, 1)
        router.cut()
        router.listen()
        link = rig.link()
        await_state(link, LinkState.OPEN)
        big = encode(wire.Bye(seq=0, code=wire.ByeCode.drain, message="x" * 4_000))
        with pytest.raises(LinkFull):  # noqa: PT012 - how many fit is libzmq's business
            for _ in range(100_000):
                link.send(big)


def test_a_frame_over_the_limit_ends_the_link(rig: Rig, folder: Path) -> None:
    with FakeRouter(folder) as router:
        link = rig.link()
        await_state(link, LinkState.OPEN)
        link.send(HELLO)
        router.hello().send_raw([b"x", bytes(16 * 1024 * 1024 + 1), b"", b""])
        assert await_state(link, LinkState.CLOSED) == []
