"""What the link's thread does: connect, serve one link until it ends, connect again.

The only thread that touches sockets. It never calls the engine, so it answers while a step runs.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pyworker.errors import LinkError
from pyworker.transport.link import LinkClosed, LinkFull, LinkState
from pyworker.transport.mailbox import Stop
from pyworker.transport.session import EndReason, LinkEnded, Session
from pyworker.wire.messages import ByeCode

if TYPE_CHECKING:
    from pyworker.engine.interface import EngineCapabilities
    from pyworker.transport.link import LinkFactory, RouterLink, Waker
    from pyworker.transport.mailbox import Inbox, Outbox
    from pyworker.transport.session import Pulse

_logger = logging.getLogger(__name__)


class TokenSource(Protocol):
    """Where the token for HELLO comes from."""

    may_change: bool
    """Whether another try may be given another token."""

    def read(self) -> str:
        """The token, asked for at each HELLO.

        Raises:
            OSError: there is none, for now.
        """


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Times in seconds. `retry_seconds` is doubled with each failed try up to `retry_seconds_max`."""

    handshake_seconds: float = 5.0
    retry_seconds: float = 0.1
    retry_seconds_max: float = 2.0
    bye_seconds: float = 0.5


@dataclass(slots=True)
class LinkCounters:
    """What happened on all links so far."""

    links: int = 0
    congested: int = 0
    violations: int = 0
    silences: int = 0


class LinkLoop:
    """Keeps one link to the router. `run` belongs to one thread; `drain` and `finish` may be called from any."""

    def __init__(
        self,
        endpoint: str,
        tokens: TokenSource,
        connect: LinkFactory,
        mailboxes: tuple[Inbox, Outbox],
        waker: Waker,
        settings: LinkSettings,
    ) -> None:
        self._endpoint = endpoint
        self._tokens = tokens
        self._connect = connect
        self._inbox, self._outbox = mailboxes
        self._waker = waker
        self._settings = settings
        self._generation = 0
        self._draining = False
        self._finishing = False
        self._with_bye = True
        self.counters = LinkCounters()

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True
        self._waker.set()

    def finish(self, *, bye: bool = True) -> None:
        """Send what is left, say goodbye unless told otherwise, and make `run` return."""
        self._with_bye = bye
        self._finishing = True
        self._waker.set()

    def run(self, capabilities: EngineCapabilities, pulse: Pulse) -> None:
        """Serve links until the router says that it drains, or `finish` is called.

        Raises:
            LinkError: the router does not want this worker.
        """
        delay, waiting = self._settings.retry_seconds, False
        while not self._finishing:
            self._generation += 1
            self._inbox.reset(self._generation)
            token, joined = None, False
            try:
                token = self._tokens.read()
            except OSError as error:
                end = LinkEnded(EndReason.CLOSED, f"no token: {error}")
            else:
                end, joined = self._serve(token, capabilities, pulse)
            if self._is_over(end, token):
                break
            if joined:
                delay, waiting = self._settings.retry_seconds, False
            if not waiting and not self._finishing:
                _logger.log(logging.WARNING if joined else logging.INFO, "%s: %s; trying again", self._endpoint, end)
                waiting = True
            self._pause(delay)
            delay = min(delay * 2, self._settings.retry_seconds_max)
        self._inbox.reset(self._generation + 1)

    def _serve(self, token: str, capabilities: EngineCapabilities, pulse: Pulse) -> tuple[LinkEnded, bool]:
        """One link from its beginning to its end, and whether the router had said welcome on it."""
        link = self._connect(self._endpoint, self._waker)
        session = Session(link, capabilities, self._inbox, pulse, self._generation)
        try:
            link.start()
            self._converse(link, session, token)
        except (LinkEnded, LinkFull, LinkClosed) as error:
            return self._ending(error, link, session), session.ready
        finally:
            link.close()
        return LinkEnded(EndReason.CLOSED, "as asked"), session.ready

    def _ending(self, error: LinkEnded | LinkFull | LinkClosed, link: RouterLink, session: Session) -> LinkEnded:
        """Count the end of a link and say goodbye where that is owed."""
        end = error if isinstance(error, LinkEnded) else self._last_words(link, session)
        if end.reason is EndReason.VIOLATION:
            self.counters.violations += 1
            self._part(link, session, ByeCode.violation, end.what)
        elif end.reason is EndReason.SILENCE:
            self.counters.silences += 1
        elif end.reason is EndReason.CONGESTION:
            self.counters.congested += 1
        return LinkEnded(EndReason.ROUTER_BYE, str(end), ByeCode.drain) if session.leaving else end

    def _last_words(self, link: RouterLink, session: Session) -> LinkEnded:
        """Why nothing can be sent: what the router said before it hung up, else a peer that does not read."""
        while (parts := link.recv(0.0)) is not None:
            try:
                session.handle(parts, time.monotonic())
            except LinkEnded as end:
                return end
            except (LinkFull, LinkClosed):
                continue
        if link.state is LinkState.CLOSED:
            return LinkEnded(EndReason.CLOSED)
        return LinkEnded(EndReason.CONGESTION, "the transport refused a message")

    def _converse(self, link: RouterLink, session: Session, token: str) -> None:
        """Take turns between the router's messages, the engine's and the time, until asked to finish."""
        deadline = time.monotonic() + self._settings.handshake_seconds
        said_hello = False
        while True:
            if link.state is LinkState.CLOSED:
                raise LinkEnded(EndReason.CLOSED)
            if link.state is LinkState.OPEN and not said_hello:
                session.hello(token, os.getpid())
                self.counters.links += 1
                said_hello = True
            finishing = self._finishing
            session.flush(self._outbox)
            if finishing:
                if self._with_bye and session.ready:
                    self._part(link, session, ByeCode.drain, "the worker is done")
                return
            now = time.monotonic()
            if not session.ready and now >= deadline:
                raise LinkEnded(EndReason.HANDSHAKE)
            timeout = session.tick(now) if session.ready else deadline - now
            parts = link.recv(timeout)
            if parts is not None:
                session.draining = self._draining
                session.handle(parts, time.monotonic())
                if session.leaving:
                    self._inbox.end(Stop.DRAIN)

    def _part(self, link: RouterLink, session: Session, code: ByeCode, message: str) -> None:
        """Say goodbye and wait until the router has hung up: a socket that closes at once would take it along."""
        try:
            session.bye(code, message)
        except (LinkClosed, LinkFull):
            return
        deadline = time.monotonic() + self._settings.bye_seconds
        while link.state is not LinkState.CLOSED and (left := deadline - time.monotonic()) > 0:
            link.recv(left)

    def _is_over(self, end: LinkEnded, said: str | None) -> bool:
        """Whether the worker has no business with this router any more.

        Raises:
            LinkError: the router does not want this worker.
        """
        if end.code is None or end.code is ByeCode.violation:
            return False
        if end.code is ByeCode.drain:
            return True
        if end.code is ByeCode.bad_token and self._tokens.may_change and self._next_token() != said:
            return False
        raise LinkError(self._endpoint, f"the router refuses this worker ({end.code.value}): {end.what}")

    def _next_token(self) -> str | None:
        try:
            return self._tokens.read()
        except OSError:
            return None

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._finishing and (left := deadline - time.monotonic()) > 0:
            self._waker.wait(left)
