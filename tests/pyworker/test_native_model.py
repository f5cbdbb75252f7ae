"""Whole models on the native backend: the reference's tokens, the same bits however a prompt is run, READY's words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from support.model_rig import Block, built_for_test, generate, limits_for_test, model_dir, model_rig

from pyworker.engine.outputs import SchedulerOutput
from pyworker.engine.request import Request, SamplingParams
from pyworker.errors import ConfigError
from pyworker.models.loader import Weights
from pyworker.models.registry import load_model, read_config
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.backends.native import NativeBackend
from pyworker.runner.batch import BatchBuilder
from pyworker.runner.build import NativeOptions, build_runner
from pyworker.runner.flow import Flow
from pyworker.runner.memory import Limits
from slackwater._native import kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyworker.kvcache.block_pool import KVCacheBlock

DTYPES = ("float32", "bfloat16")
PROMPT = np.random.default_rng(3).integers(0, 256, 300).tolist()


@pytest.fixture(autouse=True)
def _restore_isa() -> Iterator[None]:
    yield
    kernels.set_isa("auto")


def logits_by_chunks(backend: NativeBackend, chunks: list[int]) -> NDArray[np.float32]:
    """Logits after every position of the prompt, computed so many tokens at a time."""
    folder = model_dir("tiny")
    model = load_model(read_config(folder), Weights(folder), backend)
    kv = backend.kv_cache(model.kv_spec, 12)
    request = Request("a", 0, PROMPT, SamplingParams())
    request.block_table.extend(cast("list[KVCacheBlock]", [Block(10 - index) for index in range(10)]))
    builder, found = BatchBuilder(1, len(PROMPT), 10), []
    for count in chunks:
        batch = builder.build(SchedulerOutput({"a": count}, {"a": request}))
        batch.kept_rows = None
        flow = Flow(backend, batch, [], bytes(1), lambda: None)
        through = model.forward(backend, batch, kv, flow)
        assert through is not None
        found.append(model.logits(backend, through[0], np.arange(count, dtype=np.int32)).copy())
        request.num_computed_tokens += count
    assert request.num_computed_tokens == len(PROMPT)
    return np.concatenate(found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_have_the_same_bits_however_they_are_computed(dtype: str) -> None:
    expected = logits_by_chunks(NativeBackend(1, dtype), [300]).tobytes()
    for isa in kernels.available_isas():
        assert logits_by_chunks(NativeBackend(2, dtype, isa=isa), [1, 37, 129, 100, 1, 32]).tobytes() == expected, isa


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tiny", "tiny:qwen2", "tiny:qwen3", "tiny:mistral"])
def test_tokens_are_those_of_the_reference(name: str, dtype: str) -> None:
    prompts = [PROMPT[:70], PROMPT[100:103]]
    native, reference = (built_for_test(name, backend, dtype) for backend in ("native", "reference"))
    assert generate(model_rig(native), prompts) == generate(model_rig(reference), prompts)


def test_a_step_of_any_size_fits_the_workspace() -> None:
    """The planned sizes hold a full step, and nothing is left in them afterwards."""
    built = built_for_test("tiny", "native", max_num_seqs=40, max_num_batched_tokens=128)
    rig = model_rig(built)
    prompts = [PROMPT[index : index + 1 + index * 3] for index in range(40)]
    params = SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True, prompt_logprobs=2)
    assert [len(tokens) for tokens in generate(rig, prompts, params)] == [5] * 40
    backend = built.runner._backend
    assert isinstance(backend, NativeBackend)
    for workspace in (backend.workspace, backend.logits_workspace):
        assert 0 < workspace.peak <= workspace.nbytes // 4
        assert workspace.used == 0


def test_ready_says_what_computes() -> None:
    def ready(dtype: str, **native: str) -> tuple[str, str, str, set[str]]:
        options = NativeOptions(**native)  # type: ignore[arg-type]
        built = build_runner(
            model_dir("tiny"), "tiny", dtype=dtype, native=options, limits=limits_for_test(kv_cache_bytes=1 << 20)
        )
        words = {word for word in built.capabilities.features if word.startswith("isa:")}
        return built.capabilities.dtype, built.capabilities.numerics, built.capabilities.kv_layout, words

    best = kernels.available_isas()[-1]
    full, lowest, half = ready("float32"), ready("auto", isa="portable"), ready("bfloat16", isa="portable")
    assert full[1].startswith(f"f32-native{kernels.REVISION}-")
    assert lowest == ("float32", full[1], "f32-lanes32", {"isa:portable"})
    assert half[0] == "bfloat16"
    assert half[1] == full[1].replace("f32-", "bf16-", 1)
    assert (half[2], half[3]) == ("bf16-pairs32", {"isa:portable"})
    if best != "portable":
        assert ready("auto")[0] == "bfloat16"
        assert ready("bfloat16")[1] == half[1]
    mixed = ready("bfloat16", kv_dtype="float32")
    assert mixed[2] == "f32-lanes32"
    assert "-kvf32-" in mixed[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"native": NativeOptions(isa="sse9")}, "--isa sse9: this machine has auto, portable"),
        ({"native": NativeOptions(kv_dtype="int8")}, "--kv-dtype int8: known are auto, float32, bfloat16"),
        ({"native": NativeOptions(threads=5000)}, "--threads 5000: the number of threads is 5000"),
        ({"dtype": "int8"}, "--dtype int8: known are"),
        (
            {"backend": "reference", "native": NativeOptions(kv_dtype="bfloat16")},
            "--kv-dtype bfloat16: backend reference keeps keys and values in float32",
        ),
    ],
)
def test_what_cannot_be_had_is_a_config_error(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_runner(model_dir("tiny"), "tiny", **arguments)  # type: ignore[arg-type]
    assert str(caught.value).startswith(text)


def test_an_instruction_set_that_the_machine_lacks_names_those_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available_isas", lambda: ["portable", "avx2"])
    with pytest.raises(ConfigError) as caught:
        build_runner(model_dir("tiny"), "tiny", native=NativeOptions(isa="avx512"), limits=Limits())
    assert str(caught.value) == "--isa avx512: this machine has auto, portable, avx2"


def test_positions_beyond_the_planned_ones_are_computed_too() -> None:
    backend = NativeBackend(1)
    backend._positions = 8
    assert logits_by_chunks(backend, [300]).tobytes() == logits_by_chunks(NativeBackend(1), [300]).tobytes()
    assert BLOCK_SIZE == kernels.BLOCK_SIZE


def test_the_angles_of_all_positions_are_there_before_the_first_step() -> None:
    built = built_for_test("tiny", "native")
    backend = cast("NativeBackend", built.runner._backend)
    ropes, specs = list(backend._ropes.values()), dict(backend._specs)
    generate(model_rig(built), [PROMPT[:40]])
    assert (list(backend._ropes.values()), backend._specs) == (ropes, specs)
    assert len(ropes) == 1
