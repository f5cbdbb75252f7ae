"""Model files that lie, are cut short or would run code: one error that names the file, and nothing else happens."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.model_steps import embedded

from pyworker.errors import ModelLoadError, UnsupportedModel
from pyworker.models.hashes import chat_template, text_hash, weights_hash
from pyworker.models.loader import Weights, read_header
from pyworker.models.registry import load_model, read_config, read_eos_ids
from pyworker.models.rope import default_inv_freq
from pyworker.models.tiny import CONFIG, TINY_MODELS
from pyworker.runner.backends.base import Rope
from pyworker.runner.backends.reference import ReferenceBackend

if TYPE_CHECKING:
    from collections.abc import Callable

LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
T = TypeVar("T")
SHAPES = CONFIG.tensor_shapes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of `tiny` to break."""
    return Path(shutil.copytree(embedded("tiny"), tmp_path / "model"))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    weights = Weights(folder)
    return {name: weights.tensor(name).clone() for name in weights.entries}


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")


def edit(path: Path, **changes: object) -> None:
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def read_or_refused(read: Callable[[], T], path: Path) -> T | None:
    """What `read` gives, or `None` where it refuses, naming `path`."""
    try:
        return read()
    except ModelLoadError as error:
        named = error.path
    assert named == str(path)
    return None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_come_back_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    want = {"a": torch.arange(6).view(2, 3).to(dtype) / 8, "b": torch.tensor([1.5], dtype=dtype)}
    rewrite(tmp_path, want)
    weights = Weights(tmp_path)
    got = {name: weights.tensor(name) for name in weights.entries}
    assert {name: (t.dtype, t.tolist()) for name, t in got.items()} == {
        name: (torch.float32, t.float().tolist()) for name, t in want.items()
    }


def test_sharded_weights_are_found_by_their_index(folder: Path) -> None:
    tensors = tensors_of(folder)
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:9]}, folder / "a.safetensors")
    save_file({name: tensors[name] for name in names[9:]}, folder / "b.safetensors")
    (folder / "model.safetensors").unlink()
    index = {name: "a.safetensors" if name in names[:9] else "b.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    weights = Weights(folder)
    weights.check(SHAPES)
    assert all(torch.equal(weights.tensor(name), tensors[name]) for name in names)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "x.bin", "gone.safetensors", 7, ""])
def test_an_index_names_only_files_of_its_folder(folder: Path, name: object) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelLoadError) as caught:
        Weights(folder)
    assert caught.value.path == str(index)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(folder: Path) -> None:
    tensors = tensors_of(folder)
    file = str(folder / "model.safetensors")
    norm = "model.norm.weight"
    cases = [
        ({name: t for name, t in tensors.items() if name != norm}, norm, "is missing"),
        ({**tensors, "model.extra": torch.zeros(1)}, "model.extra", "is not a tensor of this model"),
        ({**tensors, norm: torch.zeros(63)}, norm, "has shape [63], the config says [64]"),
    ]
    for changed, tensor, what in cases:
        rewrite(folder, changed)
        with pytest.raises(ModelLoadError) as caught:
            Weights(folder).check(SHAPES)
        assert (caught.value.path, caught.value.tensor, caught.value.what) == (file, tensor, what)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelLoadError, match="is a pickle and may run code"):
        Weights(folder)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "header of 0 bytes in a file of 0"),
        (b"\xff" * 8, "header of 18446744073709551615 bytes"),
        ((99_000_000).to_bytes(8, "little") + b"{}", "header of 99000000 bytes in a file of 10"),
        ((2).to_bytes(8, "little") + b"[]", "header is no JSON object"),
        ((2).to_bytes(8, "little") + b"{,", "header is no JSON: "),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        read_header(path)
    assert caught.value.what.startswith(what)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 2**40), max_size=4),
    st.sampled_from(["F32", "F16", "BF16", "I64"]),
)
ENTRIES = st.fixed_dictionaries(
    {}, optional={"dtype": VALUES, "shape": VALUES, "data_offsets": st.one_of(VALUES, st.just([0, 4]))}
)


@given(header=st.dictionaries(st.text(max_size=4), st.one_of(VALUES, ENTRIES), max_size=4), data=st.binary(max_size=16))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_read_or_refused(tmp_path: Path, header: dict[str, Any], data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    entries = read_or_refused(lambda: read_header(path), path)
    if entries is None:
        return
    weights = Weights(tmp_path)
    for name, entry in entries.items():
        tensor = weights.tensor(name)
        assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, torch.float32)


def test_a_model_is_loaded_tensor_by_tensor(folder: Path) -> None:
    """What is fused is held together; nothing else is held twice."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    class Counted(Weights):
        def tensor(self, name: str) -> torch.Tensor:
            nonlocal most
            tensor = super().tensor(name)
            alive.append(weakref.ref(tensor))
            most = max(most, sum(ref() is not None for ref in alive))
            return tensor

    load_model(read_config(folder), Counted(folder), ReferenceBackend())
    assert (len(alive), most) == (len(SHAPES), 3)


@given(content=st.binary(max_size=64))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused_or_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert read_or_refused(lambda: read_header(path), path) in (None, {})


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"model_type": 7}, UnsupportedModel, "model_type is 7; built are llama, mistral, qwen2, qwen3"),
        ({"mlp_bias": True}, UnsupportedModel, "mlp_bias = True may change the maths"),
        ({"num_experts": 8}, UnsupportedModel, "num_experts = 8 may change the maths"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act = 'gelu'; only 'silu' is built"),
        ({"quantization_config": {"bits": 4}}, UnsupportedModel, "quantization_config = "),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, UnsupportedModel, "rope_scaling has rope type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, UnsupportedModel, "rope_parameters has rope type 'longrope'"),
        (
            {"rope_scaling": {"type": "yarn", "rope_type": "linear"}},
            ModelLoadError,
            "rope_scaling has rope_type 'linear'",
        ),
        ({"rope_scaling": {"type": "linear"}}, ModelLoadError, "rope parameter factor is None"),
        ({"rope_scaling": {"type": "yarn", "short_factor": 1}}, UnsupportedModel, "rope_scaling has short_factor = 1"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "linear", "factor": 4}},
            ModelLoadError,
            "rope_parameters {'rope_type': 'linear', 'factor': 4} and rope_scaling",
        ),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1}}, ModelLoadError, "rope parameters: high_freq_factor 1.0"),
        ({"rope_scaling": [8]}, ModelLoadError, "rope_scaling is [8], expected an object"),
        ({"rope_theta": 1e-300}, ModelLoadError, "rope parameters give angles that are not finite"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, UnsupportedModel, "rope_parameters has partial_rotary"),
        ({"rope_parameters": {"rope_theta": 5.0}}, ModelLoadError, "rope_theta 10000.0 and rope_parameters.rope_theta"),
        ({"rope_theta": "many"}, ModelLoadError, "rope_theta is 'many'"),
        ({"hidden_size": ...}, ModelLoadError, "hidden_size is None"),
        ({"hidden_size": 1e9}, ModelLoadError, "hidden_size is 1000000000.0"),
        ({"hidden_size": True}, ModelLoadError, "hidden_size is True"),
        ({"num_hidden_layers": 10**9}, ModelLoadError, "num_hidden_layers is 1000000000, expected 1 to 1024"),
        ({"num_key_value_heads": 3}, ModelLoadError, "4 heads do not divide into 3 groups"),
        ({"head_dim": 15}, ModelLoadError, "head_dim 15 is odd"),
        ({"head_dim": 2**30}, ModelLoadError, "head_dim is 1073741824, expected 1 to 8192"),
        ({"rms_norm_eps": 0}, ModelLoadError, "rms_norm_eps is 0"),
        ({"tie_word_embeddings": "no"}, ModelLoadError, "tie_word_embeddings is 'no'"),
    ],
)
def test_configs_that_are_refused(folder: Path, changes: dict[str, Any], kind: type, text: str) -> None:
    edit(folder / "config.json", **changes)
    with pytest.raises(ModelLoadError) as caught:
        read_config(folder)
    assert type(caught.value) is kind
    assert caught.value.path == str(folder / "config.json")
    assert caught.value.what.startswith(text)


def test_both_spellings_of_the_rotary_base_are_read(folder: Path) -> None:
    new = {"rope_theta": 5e5, "rope_type": "default"}
    edit(folder / "config.json", rope_theta=..., rope_parameters=new)
    assert read_config(folder).rope == Rope(default_inv_freq(5e5, 16))
    edit(folder / "config.json", rope_theta=5e5, rope_parameters=new)
    assert read_config(folder).rope == Rope(default_inv_freq(5e5, 16))
    edit(folder / "config.json", rope_theta=..., rope_parameters=...)
    assert read_config(folder).rope == Rope(default_inv_freq(1e4, 16))


def test_a_huge_model_on_paper_allocates_nothing(folder: Path) -> None:
    edit(folder / "config.json", hidden_size=2**30, vocab_size=2**30, max_position_embeddings=2**31 - 1)
    with pytest.raises(ModelLoadError, match="has shape"):
        Weights(folder).check(read_config(folder).tensor_shapes())


CONFIGS = {name: json.loads((embedded(name) / "config.json").read_text()) for name in TINY_MODELS}
KEYS = sorted({key for config in CONFIGS.values() for key in config} - {"model_type"} | {"rope_scaling", "layer_types"})
ROPES = st.dictionaries(
    st.sampled_from(["type", "rope_type", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "mscale",
                     "original_max_position_embeddings", "attention_factor", "truncate", "rope_theta"]),
    st.one_of(VALUES, st.sampled_from(["linear", "llama3", "yarn", 4.0, 1e-9])),
)  # fmt: skip
LAYERS = st.lists(st.sampled_from(["full_attention", "sliding_attention", "x"]), min_size=2, max_size=2)


@pytest.mark.parametrize("name", TINY_MODELS)
@given(changes=st.dictionaries(st.sampled_from(KEYS), st.one_of(VALUES, ROPES, LAYERS), min_size=1, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_any_config_is_read_or_refused(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIGS[name], **changes}))
    config = read_or_refused(lambda: read_config(tmp_path), path)
    if config is not None:
        assert len(config.tensor_shapes()) >= 9 * config.kv_spec.num_layers + 2
        assert len(config.attn_spec.rope.inv_freq) == config.kv_spec.head_dim // 2


@pytest.mark.parametrize("value", [[1, 512], "2", -1, [True]])
def test_end_of_text_ids_must_be_ids(folder: Path, value: object) -> None:
    edit(folder / "generation_config.json", eos_token_id=value)
    with pytest.raises(ModelLoadError, match="expected ids below 512"):
        read_eos_ids(folder, 512)


def test_end_of_text_falls_back_to_the_config(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=...)
    assert read_eos_ids(folder, 512) == (258,)
    edit(folder / "config.json", eos_token_id=...)
    assert read_eos_ids(folder, 512) == ()


def test_the_template_is_found_in_either_place(folder: Path) -> None:
    own = (folder / "chat_template.jinja").read_bytes()
    before = text_hash(folder)
    (folder / "chat_template.jinja").unlink()
    assert (chat_template(folder), text_hash(folder) == before) == (b"", False)
    edit(folder / "tokenizer_config.json", chat_template=own.decode())
    assert (chat_template(folder), text_hash(folder)) == (own, before)


def test_the_weights_hash_sees_every_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    before = weights_hash([path])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert weights_hash([path]) != before
    assert len(before) == 16
    assert np.frombuffer(bytes.fromhex(before), dtype=np.uint8).size == 8
