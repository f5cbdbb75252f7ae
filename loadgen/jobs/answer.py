"""An answer of HTTP/1.1 as it comes in: framing, bounds, and where its body goes. No socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import httptools
import msgspec

if TYPE_CHECKING:
    from typing import Any

_MOST_HEAD = 64 << 10
_MOST_SHOWN = 200


class NoAnswer(Exception):
    """Nothing that can be read came back; `why` in words. The call may be tried again."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class ApiRefused(Exception):
    """The server answered, and not with 2xx. `code`, `param`: of an OpenAI error, if it is one."""

    def __init__(self, what: str, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        self.what, self.status, self.message, self.code, self.param = what, status, message, code, param
        super().__init__(f"{what} was answered {status}: {message}")

    @property
    def may_pass(self) -> bool:
        """Whether it is worth another try."""
        return self.status in (408, 425, 429) or self.status >= 500


def refusal(what: str, status: int, body: bytes) -> ApiRefused:
    """Of an answer's body, whatever it may be."""
    try:
        error: Any = msgspec.json.decode(body)["error"]
        message, code, param = error["message"], error.get("code") or error.get("type"), error.get("param")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return ApiRefused(what, status, shown(body.decode("utf-8", errors="replace")) or "without a word")
    return ApiRefused(what, status, shown(message), _text(code), _text(param))


def shown(text: object) -> str:
    """A server's words, short and on one line."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:_MOST_SHOWN]).strip()


def _text(value: object) -> str | None:
    return value[:64] if isinstance(value, str) else None


class IncomingAnswer:
    """Fed with what a socket gives. The body of a 2xx goes to `file` if there is one, else it is in `body`.

    Raises `NoAnswer` from `feed` and `feed_end` for what is no HTTP or above a bound.
    """

    def __init__(self, most: int, file: BinaryIO | None = None, most_file: int = 0) -> None:
        """`most`: bytes in memory; `most_file`: bytes in the file."""
        self._most, self._file, self._most_file = most, file, most_file
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._in_head, self._framed = True, False
        self._encoded = False
        self._kept = bytearray()
        self.status = self.length = 0
        self.is_complete = self.has_begun = self.keeps = False

    @property
    def body(self) -> bytes:
        """What did not go to the file."""
        return bytes(self._kept)

    def feed(self, data: bytes) -> None:
        """More bytes."""
        self.has_begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise NoAnswer(f"not an answer of HTTP/1.1: {shown(error)}") from error
        # A header that never ends is kept by the parser, which tells nobody.
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > _MOST_HEAD:
            raise NoAnswer(f"its headers have more than {_MOST_HEAD} bytes")
        if self._encoded:
            raise NoAnswer("its body is compressed, which nobody asked for")
        most = self._most_file if self._to_file else self._most
        if self.length > most:
            raise NoAnswer(f"its body has more than {most} bytes")

    def feed_end(self) -> None:
        """The server has closed: the end of an answer without a length, and else too early."""
        if self._in_head or self._framed:
            raise NoAnswer("the connection was closed in the middle" if self.has_begun else "the connection was closed")
        self.is_complete, self.keeps = True, False

    @property
    def _to_file(self) -> bool:
        return self._file is not None and 200 <= self.status < 300

    # httptools calls these.

    def on_header(self, name: bytes, value: bytes) -> None:
        """What tells where the body ends."""
        lower = name.lower()
        if lower in (b"content-length", b"transfer-encoding"):
            self._framed = True
        if lower == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            self._encoded = True

    def on_headers_complete(self) -> None:
        """The status is known; an interim one (1xx) is not the answer."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.status, self._in_head = status, False
            self.keeps = bool(self._parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        """A piece of it."""
        self.length += len(body)
        if self._to_file and self._file is not None:
            if self.length <= self._most_file:
                self._file.write(body)
        elif self.length <= self._most:
            self._kept += body

    def on_message_complete(self) -> None:
        """Whole."""
        if self.status >= 200:
            self.is_complete = True
