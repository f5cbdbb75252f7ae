"""The pipe from the router that started a worker: its one line, and its end."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from support.fake_router import PATIENCE

from pyworker.errors import LinkError
from pyworker.transport.launch import Launch, read_launch, watch_end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE = b'{"endpoint":"ipc:///run/w.sock","token":"abc"}\n'


class Pipe:
    """Both ends, each closed at most once."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        self._open = True

    def write(self, content: bytes) -> None:
        os.write(self._write_end, content)

    def write_all(self, content: bytes) -> None:
        self.write(content)
        self.end()

    def end(self) -> None:
        if self._open:
            self._open = False
            os.close(self._write_end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.end()
    os.close(pipe.read_end)


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[int]:
    """A descriptor from which every read fails."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_one_line_is_read_and_nothing_after_it(pipe: Pipe) -> None:
    pipe.write(LINE + b"rest")
    assert read_launch(pipe.read_end) == Launch(endpoint="ipc:///run/w.sock", token="abc")
    assert os.read(pipe.read_end, 10) == b"rest"


@pytest.mark.parametrize("content", [b"", LINE[:-1], b"{}\n", b"\xff\n", b"x" * 70_000], ids=len)
def test_anything_else_is_an_error_of_the_link(pipe: Pipe, content: bytes) -> None:
    writer = threading.Thread(target=pipe.write_all, args=(content,))
    writer.start()
    with pytest.raises(LinkError, match="stdin"):
        read_launch(pipe.read_end)
    os.read(pipe.read_end, 100_000)
    writer.join(PATIENCE)


def test_a_line_that_cannot_be_read_is_an_error_of_the_link(unreadable: int) -> None:
    with pytest.raises(LinkError, match="stdin: cannot be read"):
        read_launch(unreadable)


def test_the_end_of_the_pipe_is_the_end_of_the_router(pipe: Pipe) -> None:
    ended = threading.Event()
    watch_end(pipe.read_end, ended.set)
    pipe.write(b"more")
    assert not ended.is_set()
    pipe.end()
    assert ended.wait(PATIENCE)


def test_a_pipe_that_cannot_be_read_is_the_end_of_the_router_too(unreadable: int) -> None:
    ended = threading.Event()
    watch_end(unreadable, ended.set)
    assert ended.wait(PATIENCE)
