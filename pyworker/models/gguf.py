"""Turns a GGUF file into a model folder, once, through transformers."""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from safetensors import SafetensorError

from pyworker.errors import ConfigError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)


def check_gguf(path: Path) -> None:
    """Look at the first bytes.

    Raises:
        ModelLoadError: not a GGUF file of a version that can be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelLoadError(str(path), f"cannot be read: {error.strerror}") from error
    version = int.from_bytes(head[4:], "little")
    if head[:4] != _MAGIC or version not in _VERSIONS:
        raise ModelLoadError(str(path), f"is no GGUF file of version 2 or 3 (it begins with {head.hex(' ')})")


def convert_gguf(path: Path, folder: Path) -> None:
    """Write `path` as a model folder with float32 weights into `folder`, which exists and is empty.

    Raises:
        ConfigError: the packages that read GGUF are not installed.
        ModelLoadError: the file is broken or of a family that transformers cannot read from GGUF.
    """
    check_gguf(path)
    if any(importlib.util.find_spec(name) is None for name in ("accelerate", "gguf", "transformers")):
        raise ConfigError("MODEL", path, "reading GGUF needs pip install 'slackwater[worker,convert]'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _convert(path, folder)
    except SafetensorError:
        raise  # The disk, not the file: safetensors are only written here.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # The system's word, for the one who knows the folder; transformers raises OSError without a number.
        text = str(error).strip() or "(no text)"
        raise ModelLoadError(str(path), f"cannot be converted: {type(error).__name__}: {text}") from error


def _convert(path: Path, folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with _Step("reading the tokeniser"):
        tokenizer = AutoTokenizer.from_pretrained(**where)
        tokenizer.save_pretrained(folder)
    with _Step("reading the model"):
        model = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
    with _Step("writing the model"):
        tied = bool(model.config.get_text_config().tie_word_embeddings)
        save_file(dict(_tensors(model.state_dict(), tied)), folder / "model.safetensors", metadata={"format": "pt"})
        _write_configs(model.config.to_diff_dict(), tokenizer, folder)


def _tensors(state: dict[str, torch.Tensor], tied: bool) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in state.items():
        if not (tied and name == "lm_head.weight"):
            yield name, tensor.float().contiguous()


def _write_configs(config: dict[str, Any], tokenizer: Any, folder: Path) -> None:  # noqa: ANN401
    config.pop("quantization_config", None)
    config["dtype"] = "float32"
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else config.get("eos_token_id")
    generation = {"bos_token_id": config.get("bos_token_id"), "eos_token_id": eos}
    (folder / "config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    (folder / "generation_config.json").write_bytes(orjson.dumps(generation, option=orjson.OPT_INDENT_2))


class _Step:
    """Says on stderr what takes long, and how long it took."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()
        sys.stderr.write(f"prepare: {self._what} ...\n")
        sys.stderr.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            sys.stderr.write(f"prepare: {self._what} took {time.monotonic() - self._started:.1f} s\n")
            sys.stderr.flush()
