"""Writes a folder wholly or not at all, so that whoever finds one can rely on what is in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from pyworker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


def write_whole(partial: Path, target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill `partial`, and rename it to `target` once it is on the disk. Only one caller at a time.

    Raises:
        OSError: what the system says; nothing is left.
    """
    # What is there was left by a process that was killed.
    _remove(partial)
    partial.mkdir()
    try:
        write(partial)
        # A rename may reach the disk before the bytes do: after a power cut the name would stand for empty files.
        for folder, _, files in os.walk(partial):
            for path in (*(Path(folder, name) for name in files), Path(folder)):
                _sync(path)
        partial.rename(target)
        _sync(target.parent)
    finally:
        _remove(partial)


def fill_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that is not there yet, or is empty; where that fails, it is as it was before.

    Raises:
        ConfigError: it has something in it, or cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError("DIR", folder, "is not empty")
        try:
            write(folder)
        except BaseException:
            for path in (folder,) if made else tuple(folder.iterdir()):
                _remove(path)
            raise
    except (OSError, SafetensorError) as error:
        raise ConfigError("DIR", folder, f"cannot be written: {reason_of(error)}") from error


def reason_of(error: OSError | SafetensorError) -> str:
    """What went wrong, without number and file name."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
