"""The memory plan's arithmetic, and the limit that it starts from."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.model_rig import built_for_test, model_dir

from pyworker.errors import ConfigError
from pyworker.models.tiny import CONFIG
from pyworker.runner.backends.base import StepSizes
from pyworker.runner.footprint import native_footprint, reference_footprint
from pyworker.runner.host_memory import memory_limit, resident_bytes
from pyworker.runner.memory import Limits, MemoryPlan, check_resident, fit_model_len, most_cache_bytes, plan_memory
from slackwater._native import kernels

MIB = 1 << 20
GIB = 1 << 30
BLOCK = CONFIG.kv_spec.block_bytes()
PARTS = ["weights", "workspace", "logits", "parked", "interpreter", "kv_cache"]
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


def planned(limits: Limits, limit: int, dtype: str = "float32") -> MemoryPlan:
    return plan_memory(CONFIG, limits, limit, native_footprint(CONFIG, limits, dtype, dtype, 1))


def test_the_plan_by_default_takes_no_more_than_all_slots_need() -> None:
    limits = Limits(max_num_seqs=4, max_model_len=256)
    plan = planned(limits, 8 * GIB)
    assert plan.num_blocks == 4 * 8 + 1
    assert plan.parts["kv_cache"] == plan.num_blocks * BLOCK
    assert plan.parts["weights"] == 4 * CONFIG.num_parameters
    assert plan.total == sum(plan.parts.values())


def test_the_plan_leaves_headroom_and_half_of_the_limit() -> None:
    limits = Limits(max_num_seqs=4096)
    small = planned(limits, 1800 * MIB)
    assert small.total <= 1800 * MIB - 1024 * MIB + BLOCK
    large = planned(limits, 3 * GIB)
    assert large.parts["kv_cache"] <= 3 * GIB // 2 + BLOCK


def test_workers_share_what_there_is() -> None:
    alone, shared = Limits(max_num_seqs=4096), Limits(max_num_seqs=4096, workers=3)
    assert planned(shared, 12 * GIB + 2) == planned(alone, 4 * GIB)


def test_bfloat16_halves_weights_and_cache_and_nothing_else() -> None:
    limits = Limits(max_num_seqs=4, max_model_len=256)
    full, half = planned(limits, 8 * GIB).parts, planned(limits, 8 * GIB, "bfloat16").parts
    vectors = 4 * sum(shape[0] for shape in CONFIG.tensor_shapes().values() if len(shape) == 1)
    assert half["weights"] - vectors == (full["weights"] - vectors) // 2
    assert half["kv_cache"] == full["kv_cache"] // 2
    same = ("workspace", "logits", "parked", "interpreter")
    assert [half[name] for name in same] == [full[name] for name in same]
    mixed = native_footprint(CONFIG, limits, "bfloat16", "float32", 1)
    assert (mixed.weights, mixed.kv_block) == (half["weights"], BLOCK)


def test_logits_are_bounded_by_what_a_step_can_ask_for() -> None:
    row = 4 * (CONFIG.vocab_size + CONFIG.hidden_size + 32)

    def logits(**limits: int) -> int:
        return native_footprint(CONFIG, Limits(**limits), "float32", "float32", 1).logits

    assert logits(max_num_seqs=4) == 128 * row
    assert logits(max_num_seqs=200) == 200 * row
    assert logits(max_num_seqs=200, max_step_drafts=200) == 400 * row
    assert logits(max_num_seqs=200, max_step_drafts=800) == 512 * row


def test_a_plan_that_cannot_fit_shows_its_table() -> None:
    with pytest.raises(ConfigError) as caught:
        planned(Limits(kv_cache_bytes=1 << 40), GIB)
    text = str(caught.value)
    assert text.startswith("--kv-cache-bytes 1099511627776: a cache of ")
    assert "tokens in all: a context of 2048 with 64 slots of that length" in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == [*PARTS, "total", "limit"]
    with pytest.raises(ConfigError, match="nothing fits beside the weights"):
        planned(Limits(park_max_bytes=GIB), GIB)


def test_no_room_is_planned_for_contexts_that_the_cache_cannot_hold() -> None:
    config = replace(CONFIG, max_position_embeddings=1 << 20)

    def sizes(cache_bytes: int | None, **limits: int) -> StepSizes:
        return native_footprint(config, Limits(**limits), "float32", "float32", 2, cache_bytes).sizes

    assert sizes(None).positions == 1 << 20
    assert sizes(64 * BLOCK + 5).positions == 64 * 32
    assert sizes(64 * BLOCK).activations == sizes(None, max_model_len=64 * 32).activations
    assert sizes(64 * BLOCK, max_model_len=100).positions == 100
    assert sizes(5).positions == 1
    assert most_cache_bytes(Limits(workers=4), 40 * GIB) == 4 * GIB
    assert most_cache_bytes(Limits(workers=4), 8 * GIB) == GIB
    assert most_cache_bytes(Limits(workers=4, kv_cache_bytes=7), 8 * GIB) == 7
    assert reference_footprint(config, Limits(), 64 * BLOCK).sizes.positions == 64 * 32


def test_memory_that_the_system_refuses_is_an_error_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise kernels.KernelError("no memory for 7 bytes")

    for what in ("KvCache", "GateUp"):
        monkeypatch.setattr(kernels, what, refuse)
        with pytest.raises(ConfigError, match=r"^memory \d+: planned, but the kernels refuse: no memory for 7 bytes$"):
            built_for_test("tiny", "native")


def test_heads_that_the_kernels_are_not_made_for_are_refused_by_the_plan() -> None:
    with pytest.raises(ConfigError, match="--backend native: the head size is 260") as caught:
        native_footprint(replace(CONFIG, head_dim=260), Limits(), "float32", "float32", 1)
    assert caught.value.exit_code == 2


def test_the_reference_keeps_everything_in_float32() -> None:
    limits = Limits(max_num_seqs=4)
    found = reference_footprint(CONFIG, limits)
    assert (found.weights, found.kv_block) == (4 * CONFIG.num_parameters, BLOCK)
    assert found.workspace == 4 * 512 * CONFIG.workspace_per_token


@pytest.mark.parametrize(("added", "near"), [(0, False), (60 * MIB, True), (300 * MIB, False)])
def test_a_process_far_from_its_plan_is_logged(added: int, near: bool, caplog: pytest.LogCaptureFixture) -> None:
    plan = MemoryPlan(dict.fromkeys(PARTS, 50 * MIB) | {"kv_cache": 0, "workspace": 0, "logits": 10 * MIB}, 2, GIB)
    with caplog.at_level(logging.INFO, "pyworker.runner.memory"):
        assert check_resident(plan, 70 * MIB, 70 * MIB + added) is near
    assert [record.levelname for record in caplog.records] == ["INFO" if near else "WARNING"]
    assert caplog.messages[0].startswith(f"the model takes {added / MIB:.1f} MiB, planned were 60.0 MiB")


def test_resident_memory_is_what_this_process_alone_holds(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("VmRSS:\t 99 kB\nRssAnon:\t     7 kB\nRssFile: 92 kB\n")
    assert resident_bytes(tmp_path) == 7 * 1024
    (tmp_path / "self" / "status").write_text("VmRSS:\t 99 kB\n")
    with pytest.raises(ConfigError, match="has no line RssAnon"):
        resident_bytes(tmp_path)
    assert 10 * MIB < resident_bytes() < 64 * GIB


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
        fit_model_len(CONFIG, limits, planned(limits, 8 * GIB))
    assert str(caught.value) == text


RESIDENT = """
import json, re, sys
from pathlib import Path
import pyworker.cli, pyworker.worker
from pyworker.runner.build import build_runner
from pyworker.runner.host_memory import resident_bytes
from pyworker.runner.memory import Limits
before = resident_bytes()
built = build_runner(Path(sys.argv[1]), "m", dtype=sys.argv[2], limits=Limits(kv_cache_bytes=int(sys.argv[3])))
resident = re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())
found = {"resident": int(resident[1]) << 10, "added": resident_bytes() - before}
print(json.dumps(found | built.plan.parts))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_loaded_worker_holds_is_what_the_plan_says(dtype: str) -> None:
    """All but the parked rows, which are not there yet: the rest is touched at start."""
    command = [sys.executable, "-P", "-c", RESIDENT, str(model_dir("smollm2")), dtype, str(64 * MIB)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    model = sum(found[name] for name in ("weights", "workspace", "logits", "kv_cache"))
    assert found["added"] == pytest.approx(model, rel=0.1)
    assert found["resident"] == pytest.approx(model + found["interpreter"], rel=0.1)
