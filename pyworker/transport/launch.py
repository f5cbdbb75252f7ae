"""How a worker learns where its router is and how it may join: by the pipe of the router that started it, or by files.

A child of the router has a pipe as its stdin: one JSON line, and then nothing until the router is gone.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pyworker.errors import ConfigError, LinkError
from pyworker.folders import state_dir, worker_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_logger = logging.getLogger(__name__)

LAUNCHED: Final = "SLACKWATER_LAUNCHED"
"""Set to 1 by a router for the workers that it starts."""

_LINE_BYTES: Final = 64 * 1024
_TOKEN_FILE: Final = "worker.token"  # noqa: S105 - a name of a file
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class Launch(msgspec.Struct, frozen=True):
    """What the router tells a worker that it starts."""

    endpoint: str
    token: str


class FixedToken:
    """A token that was handed over once."""

    may_change = False

    def __init__(self, token: str) -> None:
        self._token = token

    def read(self) -> str:
        """The token."""
        return self._token


class FileToken:
    """A token in a file, which another router may write anew."""

    may_change = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str:
        """The file's content now.

        Raises:
            OSError: the file cannot be read.
        """
        return self._path.read_text(encoding="ascii", errors="replace").strip()


def is_launched(env: Mapping[str, str] = os.environ) -> bool:
    """Whether a router started this process."""
    return env.get(LAUNCHED) == "1"


def read_launch(fd: int) -> Launch:
    """Read the one line that a router writes to a worker's stdin.

    Raises:
        LinkError: the pipe ended before, or the line is something else.
    """
    line = b""
    while not line.endswith(b"\n"):
        # Byte by byte: nothing after the line may be taken from the pipe.
        try:
            byte = os.read(fd, 1)
        except OSError as error:
            raise LinkError("stdin", f"cannot be read: {error}") from error
        if not byte or len(line) >= _LINE_BYTES:
            raise LinkError("stdin", "ended before one line with endpoint and token had come")
        line += byte
    try:
        return msgspec.json.decode(line, type=Launch)
    except msgspec.DecodeError as error:
        raise LinkError("stdin", f"is no line with endpoint and token: {error}") from error


def watch_end(fd: int, on_end: Callable[[], None]) -> None:
    """Call `on_end` on a thread of its own once the other end of a pipe is closed, or the pipe cannot be read.

    What comes before is ignored.
    """

    def wait() -> None:
        try:
            while os.read(fd, _LINE_BYTES):
                pass
        except OSError as error:
            # Whoever cannot be told that the router is gone must not outlive it.
            _logger.warning("stdin cannot be read (%s), which counts as the end of the router", error)
        on_end()

    threading.Thread(target=wait, name="slackwater-stdin", daemon=True).start()


def resolve_endpoint(router: str | None) -> str:
    """The endpoint that an argument means: a path, `ipc://PATH`, `tcp://` on loopback, or nothing (the usual socket).

    Raises:
        ConfigError: an endpoint that a worker must not connect to.
    """
    if router is None:
        return f"ipc://{worker_socket(state_dir())}"
    scheme, separator, rest = router.partition("://")
    if not separator:
        return f"ipc://{Path(router).absolute()}"
    if scheme == "ipc" and rest:
        return f"ipc://{Path(rest).absolute()}"
    if scheme == "tcp" and rest.rpartition(":")[0] in _LOOPBACK:
        return router
    raise ConfigError("--router", router, "a path, ipc://PATH or tcp:// on loopback; other hosts are not built yet")


def resolve_token(endpoint: str, token: str | None, token_file: Path | None = None) -> FixedToken | FileToken:
    """Where the token comes from: given, in a file that is named, or in the file beside the socket.

    Raises:
        ConfigError: there is no socket that a file could stand beside.
    """
    if token is not None:
        return FixedToken(token)
    if token_file is not None:
        return FileToken(token_file)
    scheme, _, path = endpoint.partition("://")
    if scheme != "ipc":
        raise ConfigError("--token-file", "(not given)", f"is needed for {endpoint}, which has no socket file")
    return FileToken(Path(path).with_name(_TOKEN_FILE))
