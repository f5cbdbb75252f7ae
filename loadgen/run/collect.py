"""`--collect GLOB`: files of the server that are kept with the run."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BYTES: Final = 1 << 30
"""Of all of them together: a log without end must not fill the disk."""


def collect(patterns: Sequence[str], to: Path) -> list[str]:
    """Copy what the patterns find; the sentences about what was left out. A second file of one name gets a number."""
    left: list[str] = []
    total = 0
    for pattern in patterns:
        paths = [path for path in map(Path, sorted(glob.glob(pattern, recursive=True))) if path.is_file()]  # noqa: PTH207 - the pattern may be absolute
        if not paths:
            left.append(f"--collect {pattern}: no such file")
        for path in paths:
            try:
                total += path.stat().st_size
                if total > MOST_BYTES:
                    left.append(f"--collect {path}: more than {MOST_BYTES >> 20} MiB in all")
                    return left
                to.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, _free(to, path.name))
            except OSError as error:
                # A log that rotates away must not cost the run its result.
                left.append(f"--collect {path}: {error.strerror or error}")
    return left


def _free(folder: Path, name: str) -> Path:
    number, found = 1, folder / name
    while found.exists():
        number += 1
        found = folder / f"{number}-{name}"
    return found
