"""Reading one figure of `/metrics`, and waiting until it is what it shall be."""

from __future__ import annotations

from support.http import call


def value(base: str, series: str, default: float | None = None) -> float:
    """The value of one series, named with its labels as the page writes them.

    Raises:
        KeyError: the page has no such series and there is no default.
    """
    for line in call(base, "GET", "/metrics").body.decode().splitlines():
        if line.startswith(f"{series} "):
            return float(line.rsplit(" ", 1)[1])
    if default is None:
        raise KeyError(series)
    return default


def wait_for_value(base: str, series: str, wanted: float) -> None:
    """Read the page until the series has the value. Each read is a round trip to the server, which publishes its
    figures five times a second. A value that never comes is ended by the test's own timeout.
    """
    while value(base, series, default=float("nan")) != wanted:
        pass


def resumes(base: str) -> float:
    """Requests that were resumed elsewhere so far, whatever the reason."""
    lines = call(base, "GET", "/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("slackwater_resume_total{"))
