"""Two servers are told apart when they differ and not when they do not, and the idle one is let go whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.loadgen_queue import QueueEngine

from loadgen.campaign import QUIET, ended_in_order
from loadgen.cli_build import BUILDERS
from loadgen.cli_parse import parse
from loadgen.commands.compare import main
from loadgen.compare import record
from loadgen.compare.analyse import Pair, compare, default_figures
from loadgen.compare.blocks import Block, Side, blocks
from loadgen.compare.driver import Compare
from loadgen.compare.record import CompareRecord
from loadgen.compare.sides import Commanded, group_states
from loadgen.errors import BadInput, ExitCode, Unreachable
from loadgen.measure.expr import parse_figure
from loadgen.plan.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadgen.options import CompareOptions

A, B = "http://127.0.0.1:1", "http://127.0.0.1:2"
CHAT = "name=chat,arrivals=poisson:8/s,in=fixed:8,out=fixed:2,slo=ttft<=400ms"


class NotingSide:
    """Notes what is asked of it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def activate(self) -> None:
        self._log.append(f"{self._name} up")

    def rest(self) -> None:
        self._log.append(f"{self._name} rests")

    def close(self) -> None:
        self._log.append(f"{self._name} closed")


def asked(folder: Path, *flags: str) -> CompareOptions:
    scenario = folder / "scenario.toml"
    scenario.write_text('warmup = "1s"\n')
    fixed = (str(scenario), "--a", A, "--b", B, "--block", "60s", "--online", CHAT)
    options: CompareOptions = BUILDERS["compare"](parse("compare", [*fixed, *flags]))
    return options


def compared(folder: Path, engine: QueueEngine, *flags: str) -> tuple[CompareRecord, ExitCode, list[str]]:
    log: list[str] = []
    sides: dict[Side, NotingSide] = {"a": NotingSide("a", log), "b": NotingSide("b", log)}
    folder.mkdir(exist_ok=True)
    made = Compare(asked(folder, *flags), folder, engine.tools, sides, QUIET)
    code = made.run()
    return record.decode((folder / "compare.json").read_bytes()), code, log


def test_blocks_go_a_b_b_a() -> None:
    assert "".join(each.side for each in blocks(4, "abba", 0)) == "abbaabba"
    assert [each.pair for each in blocks(2, "abba", 0)] == [0, 0, 1, 1]
    drawn = list(blocks(200, "random", 3))
    first = [each.side for each in drawn[::2]]
    assert 70 < first.count("a") < 130
    assert drawn == list(blocks(200, "random", 3))
    assert all(one.pair == two.pair and one.side != two.side for one, two in zip(drawn[::2], drawn[1::2], strict=True))


def test_a_difference_is_found_and_equal_sides_are_not_told_apart(tmp_path: Path) -> None:
    engine = QueueEngine(speed={B: 1.2})
    made, code, _ = compared(tmp_path / "one", engine, "--metric", "chat.p50.ttft,chat.mean.tpot")
    ttft, tpot = made.figures
    assert (ttft.used, ttft.kind, ttft.exact, ttft.least_p) == (10, "ratio", True, 2 / 1024)
    assert ttft.p == 2 / 1024
    assert ttft.low is not None
    assert ttft.high is not None
    assert ttft.mean is not None
    assert ttft.low <= ttft.mean <= ttft.high
    assert ttft.mean > 1.2
    assert (tpot.mean, tpot.p, tpot.differs) == (pytest.approx(1), 1.0, False)
    assert code is ExitCode.OK
    shown = record.text(made, tmp_path)
    assert "10 of 10 pairs, blocks of 60 s, order abba, idle side: leave, lengths exact" in shown
    assert "each block had load processes of its own" in shown


def test_both_blocks_of_a_pair_have_one_seed_and_each_pair_its_own(tmp_path: Path) -> None:
    engine = QueueEngine()
    compared(tmp_path, engine, "--pairs", "3", "--seed", "40")
    assert [each.scenario.seed for each in engine.runs] == [40, 40, 41, 41, 42, 42]
    assert [each.scenario.target for each in engine.runs] == [A, B, B, A, A, B]
    assert {each.scenario.duration for each in engine.runs} == {60_000_000}


def test_a_simulated_compare_of_equal_servers_is_significant_at_its_level() -> None:
    """1,000 comparisons of a queue with itself, with a drift that all blocks share: 2 to 8 % at 5 %."""
    comparisons, pairs, requests = 1_000, 10, 200
    rng = stream(11, "compare", "a/a")
    order = list(blocks(pairs, "abba", 0))
    shape = (comparisons, len(order))
    drift = np.linspace(1.0, 1.3, len(order)) * rng.lognormal(0, 0.05, size=(comparisons, 1))
    wait = np.zeros(shape)
    total = np.zeros(shape)
    for _ in range(requests):
        service = rng.exponential(1.0, size=shape) * drift
        total += wait + service
        wait = np.maximum(0.0, wait + service - rng.exponential(2.0, size=shape))
    means = total / requests
    figure = parse_figure("chat.mean.ttft")
    found = 0
    for number in range(comparisons):
        by = {(each.pair, each.side): float(means[number, place]) for place, each in enumerate(order)}
        values = [Pair(pair, by[pair, "a"], by[pair, "b"]) for pair in range(pairs)]
        found += compare(figure, values, number).differs
    assert 0.02 <= found / comparisons <= 0.08


def test_abba_takes_out_a_drift_that_abab_would_call_a_difference() -> None:
    order = [Block(pair, side) for pair in range(10) for side in ("a", "b")]
    figure = parse_figure("chat.mean.ttft")

    def differs(kept: list[Block]) -> bool:
        by = {(each.pair, each.side): 1.0 + 0.01 * place for place, each in enumerate(kept)}
        return compare(figure, [Pair(pair, by[pair, "a"], by[pair, "b"]) for pair in range(10)], 0).differs

    assert differs(order)
    assert not differs(list(blocks(10, "abba", 0)))


def test_zeros_are_compared_by_difference_and_missing_values_are_said() -> None:
    figure = parse_figure("chat.errors")
    found = compare(figure, [Pair(0, 0.0, 3.0), Pair(1, 1.0, 2.0), Pair(2, None, 4.0)], 0, "no request counts")
    assert (found.kind, found.mean, found.used, found.reason) == ("difference", 2.0, 2, "no request counts")
    none = compare(figure, [Pair(0, None, 3.0)], 0, "no request counts")
    assert (none.kind, none.mean, none.p, none.reason) == (None, None, None, "no request counts")
    endless = compare(parse_figure("chat.p50.ttft"), [Pair(0, float("inf"), 3.0)], 0)
    assert (endless.used, endless.reason) == (0, "endless on one side")


def test_unequal_lengths_are_refused(tmp_path: Path) -> None:
    log: list[str] = []
    engine = QueueEngine(lengths={A: "exact", B: "eos"})
    made = Compare(
        asked(tmp_path), tmp_path, engine.tools, {"a": NotingSide("a", log), "b": NotingSide("b", log)}, QUIET
    )
    with pytest.raises(BadInput, match="A has exact, B has eos"):
        made.run()
    assert len(engine.runs) == 2
    assert log[-2:] == ["a closed", "b closed"]


def test_a_pair_with_an_invalid_block_is_left_out(tmp_path: Path) -> None:
    engine = QueueEngine()

    def slow(number: int) -> frozenset[ExitCode]:
        engine.invalid_above = 1.0 if number == 3 else float("inf")
        return frozenset()

    engine.before = slow
    made, code, _ = compared(tmp_path, engine, "--pairs", "3", "--metric", "chat.p50.ttft")
    assert (made.left_out, code) == ([1], ExitCode.INVALID)
    assert [each.pair for each in made.figures[0].pairs] == [0, 2]
    shown = record.text(made, tmp_path)
    assert "INVALID, and left out: pairs 2" in shown
    assert "2 pairs cannot show a difference at 5 %: the smallest p is 0.5" in shown


def test_the_other_side_rests_before_one_is_measured(tmp_path: Path) -> None:
    _, _, log = compared(tmp_path, QueueEngine(), "--pairs", "2")
    blocks_ = ["b rests", "a up", "a rests", "b up", "a rests", "b up", "b rests", "a up"]
    assert log == [*blocks_, "a closed", "b closed"]


def test_ctrl_c_keeps_the_blocks_and_lets_both_go(tmp_path: Path) -> None:
    engine = QueueEngine(before=lambda number: frozenset([ExitCode.INTERRUPTED] if number == 4 else []))
    made, code, log = compared(tmp_path, engine)
    assert (code, made.interrupted, len(made.blocks)) == (ExitCode.INTERRUPTED, True, 3)
    assert [each.used for each in made.figures] == [1] * len(made.figures)
    assert log[-2:] == ["a closed", "b closed"]


def test_being_told_to_end_between_blocks_lets_both_go(tmp_path: Path) -> None:
    engine = QueueEngine()
    log: list[str] = []

    class Ends(NotingSide):
        def activate(self) -> None:
            super().activate()
            if len(engine.runs) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    def forgets(_: int) -> frozenset[ExitCode]:
        # As a run does when it gives back what it listened to.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return frozenset()

    engine.before = forgets
    sides: dict[Side, NotingSide] = {"a": Ends("a", log), "b": Ends("b", log)}
    before = signal.getsignal(signal.SIGTERM)
    with ended_in_order():
        made = Compare(asked(tmp_path), tmp_path, engine.tools, sides, QUIET)
        assert made.run() is ExitCode.INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(made.record.blocks) == 3
    assert log[-2:] == ["a closed", "b closed"]


def test_default_figures_cover_both_kinds() -> None:
    flags = ["--target", A, "--online", CHAT, "--offline", "name=eval,source=synth,items=9"]
    scenario = BUILDERS["run"](parse("run", flags)).scenario
    names = [str(each) for each in default_figures(scenario)]
    assert names == ["chat.p50.ttft", "chat.p99.ttft", "chat.mean.tpot", "chat.attainment", "eval.tokens_per_s"]


def test_the_command_prints_and_refuses_what_it_cannot_freeze(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = QueueEngine()
    assert main(asked(tmp_path, "--pairs", "1", "--out", str(tmp_path / "out")), engine.tools) is ExitCode.OK
    assert f"A {A}\nB {B}\n1 of 1 pairs" in capsys.readouterr().out
    with pytest.raises(BadInput, match="needs --a-up and --b-up"):
        main(asked(tmp_path, "--idle", "freeze"), engine.tools)
    assert main(asked(tmp_path, "--dry-run"), engine.tools) is ExitCode.OK
    assert "20 blocks, at least 1220 s" in capsys.readouterr().out


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Callable[..., Commanded]]:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    made: list[Commanded] = []

    def make(idle: str, *, down: str | None = None, background: bool = False) -> Commanded:
        port = _free_port()
        command = f"{sys.executable} {script} {port}"
        up = f"{command} & echo started" if background else f"exec {command}"
        made.append(Commanded("a", f"http://127.0.0.1:{port}", up, down, idle, tmp_path / "a.log"))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("background", [False, True])
def test_a_frozen_side_stands_still_is_continued_and_ends(side: Callable[..., Commanded], background: bool) -> None:
    server = side("freeze", background=background)
    server.activate()
    group = server.group
    assert group is not None
    server.rest()
    states = group_states(group)
    assert states
    assert set(states.values()) <= {"T", "Z"}
    assert "T" in states.values()
    server.activate()
    assert "T" not in group_states(group).values()
    server.rest()
    server.close()
    # Of a script's children init may not have taken the last one away yet.
    assert set(group_states(group).values()) <= {"Z"}
    server.close()


def test_a_stopped_side_comes_up_anew(side: Callable[..., Commanded], tmp_path: Path) -> None:
    server = side("stop", down=f"touch {tmp_path / 'down'}")
    server.activate()
    first = server.group
    server.rest()
    assert (server.group, (tmp_path / "down").exists()) == (None, True)
    server.activate()
    assert server.group not in (None, first)


def test_left_alone_it_keeps_running(side: Callable[..., Commanded]) -> None:
    server = side("leave")
    server.activate()
    server.rest()
    group = server.group
    assert group is not None
    assert "T" not in group_states(group).values()


def test_an_up_command_that_fails_is_told(tmp_path: Path) -> None:
    server = Commanded("a", f"http://127.0.0.1:{_free_port()}", "exit 7", None, "leave", tmp_path / "a.log")
    with pytest.raises(Unreachable, match="--a-up ended with status 7"):
        server.activate()
    server.close()
