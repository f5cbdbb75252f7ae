"""The memory plan's arithmetic, and the limit that it starts from."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from support.model_rig import built_for_test, model_dir

from pyworker.errors import ConfigError
from pyworker.models.tiny import CONFIG
from pyworker.runner.host_memory import memory_limit
from pyworker.runner.memory import Limits, fit_model_len, plan_memory

MIB = 1 << 20
GIB = 1 << 30
BLOCK = CONFIG.kv_spec.block_bytes()
STAT = "anon 500\nfile 2900\ninactive_file {}\nactive_file {}\ntotal_inactive_file {}\ntotal_active_file {}\n"


def world(folder: Path, groups: str, **files: str) -> int:
    """The limit that a process sees with these control files (`__` in a name is a slash) and 2 MiB available."""
    proc, cgroup = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   2048 kB\n")
    (proc / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = cgroup / name.replace("__", "/").replace("memory_", "memory.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory_limit(proc, cgroup)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/mine\n", {}, 2 * MIB),
        ("0::/mine\n", {"mine__memory_max": "max\n"}, 2 * MIB),
        ("0::/mine\n", {"mine__memory_max": f"{MIB}\n", "mine__memory_current": "1000\n"}, MIB - 1000),
        # Pages of files are given back on need.
        (
            "0::/mine\n",
            {
                "mine__memory_max": f"{MIB}\n",
                "mine__memory_current": "3400\n",
                "mine__memory_stat": STAT.format(2000, 900, 1, 1),
            },
            MIB - 500,
        ),
        # A group above this one, and one above that.
        ("0::/pod/mine\n", {"pod__memory_max": f"{MIB}\n", "pod__memory_current": "7\n"}, MIB - 7),
        (
            "0::/a/pod/mine\n",
            {
                "a__memory_max": "5000\n",
                "a__pod__memory_max": "9000\n",
                "a__pod__mine__memory_max": "max\n",
                "a__pod__memory_current": "6000\n",
            },
            3000,
        ),
        # Inside a container the path is the host's, and the mount is the group.
        ("0::/host/path\n", {"memory_max": f"{MIB}\n"}, MIB),
        ("0::/../other\n", {"memory_max": f"{MIB}\n", "other__memory_max": "1\n"}, MIB),
        ("", {"memory_max": f"{MIB}\n"}, MIB),
        ("0::/mine\n", {"memory_max": f"{MIB}\n", "memory_current": f"{3 * MIB}\n"}, 0),
        # Version 1, alone and beside version 2.
        (
            "4:cpu,memory:/pod/mine\n",
            {
                "memory__pod__memory_limit_in_bytes": f"{MIB}\n",
                "memory__pod__memory_usage_in_bytes": "3400\n",
                "memory__pod__memory_stat": STAT.format(1, 1, 2000, 900),
                "memory__pod__mine__memory_limit_in_bytes": "9223372036854771712\n",
            },
            MIB - 500,
        ),
        ("4:memory:/\n0::/\n", {"memory__memory_limit_in_bytes": f"{MIB}\n", "unified__memory_max": "max\n"}, MIB),
        ("4:memory:/\n0::/u\n", {"memory__memory_limit_in_bytes": f"{MIB}\n", "unified__u__memory_max": "9\n"}, 9),
    ],
)
def test_the_limit_is_the_least_that_the_machine_and_all_control_groups_leave(
    groups: str, files: dict[str, str], limit: int, tmp_path: Path
) -> None:
    assert world(tmp_path, groups, **files) == limit


def test_the_plan_by_default_takes_no_more_than_all_slots_need() -> None:
    limits = Limits(max_num_seqs=4, max_model_len=256)
    plan = plan_memory(CONFIG, limits, 8 * GIB)
    assert plan.num_blocks == 4 * 8 + 1
    assert plan.parts["kv_cache"] == plan.num_blocks * BLOCK
    assert plan.parts["weights"] == 4 * CONFIG.num_parameters
    assert plan.total == sum(plan.parts.values())


def test_the_plan_leaves_headroom_and_half_of_the_limit() -> None:
    limits = Limits(max_num_seqs=4096)
    small = plan_memory(CONFIG, limits, 1800 * MIB)
    assert small.total <= 1800 * MIB - 1024 * MIB + BLOCK
    large = plan_memory(CONFIG, limits, 3 * GIB)
    assert large.parts["kv_cache"] <= 3 * GIB // 2 + BLOCK


def test_workers_share_what_there_is() -> None:
    alone, shared = Limits(max_num_seqs=4096), Limits(max_num_seqs=4096, workers=3)
    assert plan_memory(CONFIG, shared, 12 * GIB + 2) == plan_memory(CONFIG, alone, 4 * GIB)


def test_a_plan_that_cannot_fit_shows_its_table() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_memory(CONFIG, Limits(kv_cache_bytes=1 << 40), GIB)
    text = str(caught.value)
    assert text.startswith("--kv-cache-bytes 1099511627776: a cache of ")
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        "weights", "workspace", "logits", "interpreter", "kv_cache", "total", "limit",
    ]  # fmt: skip


def test_no_context_is_promised_that_the_cache_cannot_hold(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pyworker.runner.memory"):
        built = built_for_test(kv_cache_bytes=40 * BLOCK)
    assert (built.capabilities.max_model_len, built.config.max_model_len) == (1280, 1280)
    assert caplog.messages == ["max_model_len is 1280, as the KV cache holds no more; the model could 2048"]
    assert built_for_test(kv_cache_bytes=64 * BLOCK).capabilities.max_model_len == 2048
    assert built_for_test(kv_cache_bytes=40 * BLOCK, max_model_len=1280).capabilities.max_model_len == 1280


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (1281, "--max-model-len 1281: at most 1280, the tokens that the KV cache holds"),
        (2049, "--max-model-len 2049: 2 to 2048, the context that the model was made for"),
    ],
)
def test_a_context_that_was_asked_for_and_cannot_be_is_refused(asked: int, text: str) -> None:
    limits = Limits(max_model_len=asked, kv_cache_bytes=40 * BLOCK)
    with pytest.raises(ConfigError) as caught:
        fit_model_len(CONFIG, limits, plan_memory(CONFIG, limits, 8 * GIB))
    assert str(caught.value) == text


RESIDENT = """
import json, re, sys
from pathlib import Path
import pyworker.cli, pyworker.worker
from pyworker.runner.build import build_runner
from pyworker.runner.memory import Limits
built = build_runner(Path(sys.argv[1]), "m", limits=Limits(kv_cache_bytes=int(sys.argv[2])))
resident = re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(json.dumps({"resident": int(resident[1]) << 10} | built.plan.parts))
"""


@pytest.mark.timeout(300)
def test_what_a_loaded_worker_holds_is_what_the_plan_says() -> None:
    """Cache, workspace and logits are not touched yet, and so not resident."""
    command = [sys.executable, "-P", "-c", RESIDENT, str(model_dir("smollm2")), str(16 * MIB)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["resident"] == pytest.approx(found["interpreter"] + found["weights"], rel=0.1)
