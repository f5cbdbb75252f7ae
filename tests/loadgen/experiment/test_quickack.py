"""The probe for stalls, against servers that send as a good and as a bad one does."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loadgen.experiment import quickack

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@contextmanager
def serving(*pieces: bytes) -> Iterator[str]:
    """Answers every connection with these pieces and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    link, _ = listening.accept()
                except OSError:
                    return
                with link:
                    link.recv(1 << 16)
                    for piece in pieces:
                        link.sendall(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_whole_stream_is_timed() -> None:
    with serving(HEAD, b"data: {}\n\n", b"data: [DO", b"NE]\n\n") as target:
        found = quickack.measure(target, "m", rounds=3)
    assert sorted(found) == ["plain", "quickack"]
    assert all(0 < each < 5_000 for each in found.values())


def test_a_stream_that_does_not_end_well_has_no_time() -> None:
    with serving(HEAD, b"data: {}\n\n") as target:
        assert quickack.measure(target, "m", rounds=2) == {}
    with serving(b"HTTP/1.1 500 no\r\n\r\n[DONE]") as target:
        assert quickack.measure(target, "m", rounds=2) == {}
    assert quickack.measure(target, "m", rounds=2) == {}, "nobody answers"
