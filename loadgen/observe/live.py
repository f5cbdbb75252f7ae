"""The live view of a run: in a terminal twice a second, as a line every 5 s, or as an object a second.

`rich` and `plain` go to stderr and `json` to stdout, so that what a command prints at its end can be piped alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import orjson

from loadgen.observe import live_text, pause
from loadgen.observe.live_plan import live_plan
from loadgen.observe.live_state import SECOND, LiveState

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import Console
    from rich.live import Live

    from loadgen.drive.clock import Clock
    from loadgen.observe.host import HostWatch
    from loadgen.observe.live_state import Phase
    from loadgen.observe.scrape import Scraper
    from loadgen.options import Ui
    from loadgen.plan.model import Plan
    from loadgen.spec import Scenario

_EVERY: Final = {"rich": SECOND // 2, "plain": 5 * SECOND, "json": SECOND, "none": SECOND}


def chosen(ui: Ui | None, errors: TextIO | None = None) -> Ui:
    """What `--ui` means where it is not given: `rich` at a terminal, else `plain`."""
    if ui is not None:
        return ui
    return "rich" if (errors or sys.stderr).isatty() else "plain"


class LiveView:
    """Tell it by `feed` (each summary), `look`, `phase`, and `state`; it draws on `tick`."""

    def __init__(
        self,
        ui: Ui | None,
        scenario: Scenario,
        plan: Plan,
        *,
        out: TextIO | None = None,
        console: Console | None = None,
    ) -> None:
        """`ui` None: `rich` at a terminal, else `plain`. `out`: for `json` and `plain`, instead of stdout or stderr.
        `console`: for `rich`, instead of stderr.
        """
        self.ui: Final = chosen(ui)
        self.state = LiveState(live_plan(scenario, plan))
        self.feed = self.state.feed
        self._out = out or (sys.stdout if self.ui == "json" else sys.stderr)
        self._second: int | None = None
        self._drawn: int | None = None
        self._live = _screen(console) if self.ui == "rich" else None

    def say(self, text: str) -> None:
        """A line of progress, above the view."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        elif self.ui == "plain":
            self._write(text)

    def phase(self, name: Phase) -> None:
        """The run is in another phase than the plan's times say, such as a drain that began early."""
        self.state.forced = name

    def look(self, scraper: Scraper | None, host: HostWatch | None) -> None:
        """Take over what those two saw last."""
        if scraper is not None and scraper.rows:
            self.state.feed_server(scraper.rows[-1][1])
        if host is not None and host.rows:
            self.state.feed_host(host.rows[-1])

    def tick(self, now: int) -> None:
        """Fold the second that has passed, and draw if it is time. `now`: microseconds from `t0`."""
        if self._second is None or now // SECOND > self._second:
            self._second = now // SECOND
            self.state.advance(now)
        # On a grid, so that a tick which is early by a hair does not leave one out.
        if self._drawn is not None and now // _EVERY[self.ui] <= self._drawn:
            return
        self._drawn = now // _EVERY[self.ui]
        if self._live is not None:
            self._draw(now)
        elif self.ui == "plain":
            self._write(live_text.line(self.state, now))
        elif self.ui == "json":
            self._write(orjson.dumps(live_text.as_object(self.state, now)).decode())

    async def run(self, clock: Clock, end: int | None = None) -> None:
        """Tick twice a second until `end` (microseconds) or until cancelled."""
        due = clock.now()
        while end is None or due <= end:
            await pause.until(clock, due)
            self.tick(clock.now())
            due += SECOND // 2 * max(1, -((due - clock.now()) // (SECOND // 2)))

    def close(self, now: int | None = None) -> None:
        """Draw once more if `now` is given, and give the terminal back. Idempotent."""
        if now is not None and self._second is not None:
            self._drawn = None
            self.tick(now)
        if self._live is not None:
            self._live.stop()

    def _draw(self, now: int) -> None:
        from loadgen.observe.live_rich import render

        if self._live is not None:
            self._live.start()
            self._live.update(render(self.state, now, self._live.console.width), refresh=True)

    def _write(self, text: str) -> None:
        try:
            self._out.write(f"{text}\n")
            self._out.flush()
        except OSError:
            # Whoever read it has gone, or its disk is full; the run goes on.
            self._out = _Nowhere()


class _Nowhere:
    """A stream that nobody reads."""

    def write(self, text: str) -> int:
        """Drop it."""
        return len(text)

    def flush(self) -> None:
        """Nothing is held."""


def _screen(console: Console | None) -> Live:
    from rich.console import Console as RichConsole
    from rich.live import Live

    return Live(console=console or RichConsole(stderr=True), auto_refresh=False, transient=False)
