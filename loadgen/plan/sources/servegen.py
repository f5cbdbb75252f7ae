"""`servegen:RATES+LENGTHS`: profiles of clients, from which arrivals and lengths are drawn.

Per client and window of 600 s the rates file has a rate and a law of gaps, and per 21,600 s the lengths file has maps
from value to probability. Gaps are always brought to the client's rate: a Gamma's shape and scale give it back by
themselves, a Weibull's mean is off by a factor of 0.9 to 2.2. Maps sum to 1 within 1e-3, and are made to sum to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from loadgen.errors import BadData, BadInput
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files
from loadgen.plan.streams import stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

RATE_SECONDS, LENGTH_SECONDS = 600, 21_600


@dataclass(frozen=True, slots=True)
class RateWindow:
    """`rate` a second of one client from `begin` seconds; gaps by `law` with `shape`."""

    begin: int
    rate: float
    cv: float
    law: Literal["Gamma", "Weibull"]
    shape: float

    def gaps(self, rng: Generator, count: int) -> NDArray[np.float64]:
        """Gaps in seconds, with the mean 1/rate."""
        if self.law == "Gamma":
            return rng.gamma(self.shape, 1 / (self.shape * self.rate), count)
        return rng.weibull(self.shape, count) / (math.gamma(1 + 1 / self.shape) * self.rate)


@dataclass(frozen=True, slots=True)
class LengthWindow:
    """Maps of one client from `begin` seconds: values with probabilities that sum to 1."""

    begin: int
    prompt: tuple[NDArray[np.float64], NDArray[np.float64]]
    out: tuple[NDArray[np.float64], NDArray[np.float64]]
    reason_ratio: tuple[NDArray[np.float64], NDArray[np.float64]] | None


def read_rates(path: Path) -> dict[int, list[RateWindow]]:
    """Windows by client, ascending.

    Raises:
        BadData: file, row and field.
    """
    found: dict[int, list[RateWindow]] = {}
    columns = ("client_id", "window_start_s", "rate_rps", "iat_cv", "iat_distribution", "param1")
    for row, values in files.csv_rows(path, columns):
        client = files.whole(path, row, "client_id", values["client_id"])
        law: Literal["Gamma", "Weibull"]
        match values["iat_distribution"]:
            case "Gamma":
                law = "Gamma"
            case "Weibull":
                law = "Weibull"
            case other:
                raise BadData(str(path), row, "iat_distribution", f"{other!r} is neither Gamma nor Weibull")
        numbers = [files.real(path, row, field, values[field]) for field in ("rate_rps", "iat_cv", "param1")]
        if numbers[0] <= 0 or numbers[2] <= 0:
            raise BadData(str(path), row, "rate_rps" if numbers[0] <= 0 else "param1", "not above 0")
        begin = files.whole(path, row, "window_start_s", values["window_start_s"])
        found.setdefault(client, []).append(RateWindow(begin, numbers[0], numbers[1], law, numbers[2]))
    return {client: sorted(windows, key=lambda window: window.begin) for client, windows in sorted(found.items())}


def read_lengths(path: Path) -> dict[int, list[LengthWindow]]:
    """Windows by client, ascending.

    Raises:
        BadData: file, row and field.
    """
    found: dict[int, list[LengthWindow]] = {}
    for row, values in files.json_rows(path, ("client_id", "window_start_s", "input_tokens", "output_tokens")):
        client = files.whole(path, row, "client_id", values["client_id"])
        begin = files.whole(path, row, "window_start_s", values["window_start_s"])
        ratio = values.get("reason_ratio")
        window = LengthWindow(
            begin,
            _map(path, row, "input_tokens", values["input_tokens"]),
            _map(path, row, "output_tokens", values["output_tokens"]),
            _map(path, row, "reason_ratio", ratio) if ratio else None,
        )
        found.setdefault(client, []).append(window)
    return {client: sorted(windows, key=lambda window: window.begin) for client, windows in sorted(found.items())}


def _map(path: Path, row: int, field: str, value: object) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not isinstance(value, dict) or not value:
        raise BadData(str(path), row, field, "not a map from value to probability")
    keys = np.array([files.real(path, row, field, key) for key in value])
    weights = np.array([files.real(path, row, field, weight) for weight in value.values()])
    if abs(weights.sum() - 1) > 2e-3:
        raise BadData(str(path), row, field, f"its probabilities sum to {weights.sum():.4f}")
    return keys, weights / weights.sum()


def volume(windows: list[RateWindow]) -> float:
    """Requests that a client sends in all its windows."""
    return sum(window.rate for window in windows) * RATE_SECONDS


class ServeGen:
    """See the module."""

    has_times = True

    def __init__(
        self,
        rates: Path,
        lengths: Path,
        missing: Literal["pool", "drop"] | None,
        seed: int,
        cls: str,
        until: int,
    ) -> None:
        """`missing`: what is done with clients without lengths. `until`: microseconds of the trace that are wanted.

        Raises:
            BadData: file, row and field.
            BadInput: some client has no lengths, and `missing` does not say what then.
        """
        self.name = f"servegen:{rates.name}"
        self.rates, self.lengths = read_rates(rates), read_lengths(lengths)
        self._seed, self._cls, self._until = seed, cls, until / 1e6
        without = [client for client in self.rates if client not in self.lengths]
        if without and missing is None:
            share = sum(volume(self.rates[client]) for client in without) / sum(map(volume, self.rates.values()))
            why = f"{len(without)} clients with {share:.0%} of the volume have no lengths; say pool or drop"
            raise BadInput("--online", "missing", "", why)
        self._clients = [client for client in self.rates if missing == "pool" or client in self.lengths]
        self._pool = [client for client in self.lengths if client in self.rates]
        self._pool_weights = np.array([volume(self.rates[client]) for client in self._pool])

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`; `session` is None: the profiles say nothing of conversations."""
        drawn: list[tuple[int, int, int, int]] = []
        for client in self._clients:
            rng = stream(self._seed, self._cls, f"servegen {client}")
            for window in self.rates[client]:
                if window.begin < self._until:
                    drawn += [(time, client, prompt, out) for time, prompt, out in self._window(client, window, rng)]
        for time, _, prompt, out in sorted(drawn):
            yield SourceRow(time=time, in_tokens=prompt, out_tokens=out)

    def _window(self, client: int, window: RateWindow, rng: Generator) -> Iterator[tuple[int, int, int]]:
        length = min(RATE_SECONDS, self._until - window.begin)
        sums: NDArray[np.float64] = np.empty(0)
        # The first gap is cut by an even share: a window begins between two arrivals, not at one.
        reached = -float(rng.random() * window.gaps(rng, 1)[0])
        while reached < length:
            more = reached + np.cumsum(window.gaps(rng, max(64, int(window.rate * length))))
            sums, reached = np.concatenate([sums, more]), float(more[-1])
        times = sums[(sums >= 0) & (sums < length)]
        lengths = self._lengths_at(client, window.begin, rng)
        prompts = rng.choice(lengths.prompt[0], size=len(times), p=lengths.prompt[1])
        outs = rng.choice(lengths.out[0], size=len(times), p=lengths.out[1])
        for time, prompt, out in zip(times, prompts, outs, strict=True):
            yield round((window.begin + time) * 1e6), max(1, int(prompt)), max(1, int(out))

    def _lengths_at(self, client: int, second: int, rng: Generator) -> LengthWindow:
        """The client's map at that time, or the nearest before it; of a client without, that of another by volume."""
        chosen = client
        if client not in self.lengths:
            weights = self._pool_weights / self._pool_weights.sum()
            chosen = self._pool[int(rng.choice(len(self._pool), p=weights))]
        windows = self.lengths[chosen]
        before = [window for window in windows if window.begin <= second]
        return before[-1] if before else windows[0]
