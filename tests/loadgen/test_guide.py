"""Every command line of docs/loadgen.md is typed as it stands there, against mocks."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.loadgen_mock import command, free_port, mock

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/loadgen.md").read_text(), re.DOTALL)
ENGINE = ("--mode", "engine", "--preset", "cpu-small", "--speed", "5")
AT_ONCE = 3
# A slow machine makes a run INVALID (4), and the guide says so; everything else is a line that does not work.
FUNCTION = 'slackwater-loadgen() {{ {program} "$@"; local code=$?; [ $code = 0 ] || [ $code = 4 ] || exit $code; }}\n'


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    """The guide's addresses, and those that stand for them here."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(mock(*ENGINE)) for _ in range(2))
        yield {
            "127.0.0.1:8000": first.url.removeprefix("http://"),
            "127.0.0.1:8010": second.url.removeprefix("http://"),
            "127.0.0.1:8020": f"127.0.0.1:{free_port()}",
        }


@pytest.mark.timeout(300)
def test_every_command_line_of_the_guide(tmp_path: Path, addresses: dict[str, str]) -> None:
    data = Path(os.environ.get("SLACKWATER_DATA") or ROOT.parent / "shared/data")
    program = FUNCTION.format(program=" ".join(command()))

    def typed(block: str) -> str:
        for written, real in addresses.items():
            block = block.replace(written, real)
        env = {**os.environ, "SLACKWATER_DATA": str(data)}
        # The arms of experiments are not in the wheel: those lines are typed in a checkout, as the guide says.
        folder = ROOT if "loadgen experiment" in block else tmp_path
        done = subprocess.run(
            ["bash", "-c", program + block], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        clean = done.returncode == 0 and "Traceback" not in done.stderr
        return "" if clean else f"{block}\n{done.returncode}: {done.stdout[-600:]}\n{done.stderr[-600:]}"

    # A mock runs until it is stopped: those lines are what `addresses` does.
    blocks = [block for block in BLOCKS if "slackwater-loadgen mock" not in block]
    if not data.is_dir():
        blocks = [block for block in blocks if "SLACKWATER_DATA" not in block]
    assert len(blocks) >= 10
    makes = [block for block in blocks if "cat >" in block]
    failures = [typed(block) for block in makes]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures += pool.map(typed, [block for block in blocks if block not in makes])
    assert [failure for failure in failures if failure] == []
