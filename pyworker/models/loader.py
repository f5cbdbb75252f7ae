"""Reads safetensors: what a file claims is checked against its size and the model's shapes before anything is used.

Files are mapped, not read: a tensor's pages come in when it is packed, and one tensor at a time is held twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import orjson

from pyworker.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

_HEADER_MAX = 100_000_000
_JSON_MAX = 64 << 20
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_PICKLES = ("*.bin", "*.pt", "*.pth")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: `begin..end` in bytes of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Weights:
    """The weight files of a model folder. `entries` by tensor name."""

    def __init__(self, folder: Path) -> None:
        """Read the headers.

        Raises:
            ModelLoadError: no weights, or a file that does not hold what it says.
        """
        self.folder = folder
        self.files = weight_files(folder)
        self.entries: dict[str, TensorEntry] = {}
        self._maps: dict[Path, NDArray[np.uint8]] = {}
        for file in self.files:
            for name, entry in read_header(file).items():
                if name in self.entries:
                    raise ModelLoadError(str(file), f"is also in {self.entries[name].file.name}", tensor=name)
                self.entries[name] = entry

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: tuple[str, ...] = ()) -> None:
        """Compare names and shapes with those of the model. Names that end with one of `ignored` may be there or not.

        Raises:
            ModelLoadError: a tensor is missing, extra or misshapen.
        """
        for name, shape in expected.items():
            entry = self.entries.get(name)
            if entry is None:
                raise ModelLoadError(str(self.files[0]), "is missing", tensor=name)
            if entry.shape != shape:
                raise ModelLoadError(
                    str(entry.file), f"has shape {list(entry.shape)}, the config says {list(shape)}", tensor=name
                )
        for name, entry in self.entries.items():
            if name not in expected and not name.endswith(ignored):
                raise ModelLoadError(str(entry.file), "is not a tensor of this model", tensor=name)

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor in float32. Float32 tensors share the mapped file, copied on write."""
        # Here and not above: resolving a model's name needs no torch, and its import takes seconds.
        import torch

        entry = self.entries[name]
        if entry.file not in self._maps:
            self._maps[entry.file] = np.memmap(entry.file, dtype=np.uint8, mode="c")
        raw = self._maps[entry.file][entry.begin : entry.end]
        if entry.dtype == "F32":
            # A view at an odd offset cannot be typed; a copy can.
            aligned = raw if entry.begin % 4 == 0 else raw.copy()
            return torch.from_numpy(aligned.view(np.float32)).view(entry.shape)
        half = torch.from_numpy(raw.copy().view(np.int16))
        kind = torch.float16 if entry.dtype == "F16" else torch.bfloat16
        return half.view(kind).to(torch.float32).view(entry.shape)

    def close(self) -> None:
        """Unmap what no tensor uses any more."""
        self._maps.clear()


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the files that the index names; an index may name only files in the folder.

    Raises:
        ModelLoadError: there are none, or only pickles.
    """
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    index = folder / _INDEX
    if index.is_file():
        return _indexed(index)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelLoadError(str(folder / pickles[0]), "is a pickle and may run code; convert it to safetensors")
    raise ModelLoadError(str(folder), f"holds neither {_SINGLE} nor {_INDEX}")


def _indexed(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(str(index), "has no weight_map")
    names = {name for name in weight_map.values() if isinstance(name, str)}
    if len(names) < len({str(name) for name in weight_map.values()}):
        raise ModelLoadError(str(index), "weight_map names something that is no file")
    for name in sorted(names):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise ModelLoadError(str(index), f"names {name!r}: only .safetensors files of this folder may be named")
        if not (index.parent / name).is_file():
            raise ModelLoadError(str(index), f"names {name!r}, which is not there")
    return [index.parent / name for name in sorted(names)]


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Entries of one safetensors file: 8 bytes of length, that much JSON, then the data.

    Raises:
        ModelLoadError: anything in it does not add up.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(_HEADER_MAX, size - 8):
                raise ModelLoadError(
                    str(file), f"header of {length} bytes in a file of {size}; at most {_HEADER_MAX} are read"
                )
            header = orjson.loads(stream.read(length))
    except OSError as error:
        raise ModelLoadError(str(file), f"cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise ModelLoadError(str(file), f"header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ModelLoadError(str(file), "header is no JSON object")
    header.pop("__metadata__", None)
    return {name: _entry(file, name, value, 8 + length, size) for name, value in header.items()}


def _entry(file: Path, name: str, value: object, data: int, size: int) -> TensorEntry:
    if not isinstance(value, dict):
        raise ModelLoadError(str(file), "entry is no object", tensor=name)
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ELEMENT_BYTES:
        raise ModelLoadError(str(file), f"dtype {dtype!r}; known are {', '.join(_ELEMENT_BYTES)}", tensor=name)
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
        raise ModelLoadError(str(file), "shape or data_offsets are no lists of counts", tensor=name)
    begin, end = data + offsets[0], data + offsets[1]
    if begin > end or end > size:
        raise ModelLoadError(str(file), f"bytes {begin} to {end} in a file of {size}", tensor=name)
    if math.prod(shape) * _ELEMENT_BYTES[dtype] != end - begin:
        raise ModelLoadError(str(file), f"{end - begin} bytes for {dtype} {shape}", tensor=name)
    return TensorEntry(file, dtype, tuple(shape), begin, end)


def _is_counts(value: object) -> TypeGuard[list[int]]:
    """Whether a decoded value is a short list of non-negative integers (`bool` is none)."""
    return isinstance(value, list) and len(value) <= 8 and all(type(item) is int and item >= 0 for item in value)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelLoadError: not there, too large, or no object.
    """
    try:
        if path.stat().st_size > _JSON_MAX:
            raise ModelLoadError(str(path), f"is larger than {_JSON_MAX} bytes")
        value = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(str(path), f"cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise ModelLoadError(str(path), f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(str(path), "is no JSON object")
    return value
