"""What a model folder is, in sixteen hexadecimal digits: its text side and its weights.

The router computes the text hash of the folder it was given and refuses a worker whose hash differs, for their token
ids would not mean the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import xxhash

from pyworker.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHUNK = 8 << 20


def text_hash(folder: Path) -> str:
    """XXH3-64 of the bytes of `tokenizer.json`, one zero byte, and the chat template's bytes (none: nothing).

    Raises:
        ModelLoadError: a file is missing or cannot be read.
    """
    digest = xxhash.xxh3_64(_read(folder / "tokenizer.json"))
    digest.update(b"\0")
    digest.update(chat_template(folder))
    return digest.hexdigest()


def chat_template(folder: Path) -> bytes:
    """`chat_template.jinja`, else the string `chat_template` of `tokenizer_config.json`, else nothing."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return _read(own)
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return b""
    try:
        config = orjson.loads(_read(path))
    except orjson.JSONDecodeError as error:
        raise ModelLoadError(str(path), f"is no JSON: {error}") from error
    template = config.get("chat_template") if isinstance(config, dict) else None
    return template.encode() if isinstance(template, str) else b""


def weights_hash(files: Iterable[Path]) -> str:
    """XXH3-64 over the content of the weight files, in the order of their names.

    Raises:
        ModelLoadError: a file cannot be read.
    """
    digest = xxhash.xxh3_64()
    for path in sorted(files):
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise ModelLoadError(str(path), f"cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelLoadError(str(path), f"cannot be read: {error.strerror}") from error
