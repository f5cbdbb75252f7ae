"""`tiny` is the same everywhere, transformers reads it, and both compute the same logits."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model_rig import (
    built_for_test,
    generate,
    logits_of,
    model_dir,
    model_rig,
    transformers_greedy,
    transformers_model,
)
from support.model_steps import embedded, load, logits_in_chunks
from tokenizers import Tokenizer

from pyworker.models.hashes import text_hash, weights_hash
from pyworker.models.registry import read_config, read_eos_ids
from pyworker.models.tiny import CONFIG, IM_END, write_tiny
from pyworker.runner.backends.reference import ReferenceBackend


def test_its_files_never_change(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    assert (weights_hash([tmp_path / "model.safetensors"]), text_hash(tmp_path)) == (
        "79a34eaf1c4f5e72",
        "cac8c7c39cdd1503",
    )
    assert read_config(tmp_path) == CONFIG
    assert read_eos_ids(tmp_path, 512) == (258, 256)


def test_each_byte_is_its_own_token() -> None:
    tokenizer = Tokenizer.from_file(str(model_dir("tiny") / "tokenizer.json"))
    text = "Grüße, 世界!\n\t<|im_end|>"
    encoded = tokenizer.encode(text).ids
    assert encoded == [*"Grüße, 世界!\n\t".encode(), IM_END]
    assert tokenizer.decode(encoded, skip_special_tokens=False) == text
    assert tokenizer.get_vocab_size() == 512


def test_transformers_reads_its_tokeniser_and_template() -> None:
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = AutoTokenizer.from_pretrained(model_dir("tiny"))
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token_id == IM_END


def test_logits_match_transformers() -> None:
    prompt = [*b"The tide goes out, the tide comes in, and slack water lies between. " * 5]
    with torch.no_grad():
        want = transformers_model(model_dir("tiny"))(torch.tensor([prompt])).logits[0].numpy()
    assert float(np.abs(logits_of(model_dir("tiny"), prompt) - want).max()) < 1e-4


def test_greedy_tokens_match_transformers_generate() -> None:
    prompts = [[*b"Hello"], [*b"x"], [*b"A longer prompt. " * 20]]
    got = generate(model_rig(built_for_test()), prompts)
    assert got == [transformers_greedy(model_dir("tiny"), prompt, 16) for prompt in prompts]


def test_it_does_not_repeat_itself_and_prints() -> None:
    tokens = generate(model_rig(built_for_test()), [[*b"Once upon a time"]])[0]
    assert len(set(tokens)) > 6
    assert sum(32 <= token < 127 for token in tokens) > 8


@pytest.mark.parametrize(
    ("family", "weights"),
    [("qwen2", "43e86eec4b11767e"), ("qwen3", "1cf570e13fbb4b9e"), ("mistral", "2aa0538fdc9437f1")],
)
def test_its_sisters_never_change_and_match_transformers_beyond_their_window(family: str, weights: str) -> None:
    folder, backend = embedded(f"tiny:{family}"), ReferenceBackend()
    assert weights_hash([folder / "model.safetensors"]) == weights
    assert max(window or 0 for window in read_config(folder).windows) == 40
    prompt = [*b"The tide goes out, the tide comes in, and slack water lies between."]
    with torch.no_grad():
        want = transformers_model(folder)(torch.tensor([prompt])).logits[0].numpy()
    got = logits_in_chunks(load(folder, backend), backend, [prompt], (30, 1))[0]
    assert float(np.abs(got - want).max()) < 1e-4
