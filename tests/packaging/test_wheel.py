"""What the wheel and the source archive hold, and that the archive compiles."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel() -> Path:
    named = os.environ.get("SLACKWATER_WHEEL")
    found = [Path(named)] if named else sorted((ROOT / "dist").glob("slackwater-*.whl"))
    if len(found) != 1 or not found[0].is_file():
        pytest.fail(f"one wheel is needed: set SLACKWATER_WHEEL, or build into dist/ with maturin; found {found}")
    return found[0]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    maturin = Path(sysconfig.get_path("scripts")) / "maturin"
    subprocess.run([maturin, "sdist", "--out", folder], cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (extracted,) = (entry for entry in folder.iterdir() if entry.is_dir())
    # All files of an archive are equally old, so cargo would take them for those of an older archive in the same place.
    for path in extracted.rglob("*"):
        path.touch()
    return extracted


def test_the_wheel_has_exactly_our_packages(wheel: Path) -> None:
    names = [PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()]
    top = {name.parts[0] for name in names}
    (info,) = (name for name in top if name.startswith("slackwater-") and name.endswith(".dist-info"))
    assert top == {"slackwater", "pyworker", "loadgen", info}
    assert "cp311-abi3" in wheel.name
    plans = {name for name in names if name.parts[:2] == ("loadgen", "plans")}
    ours = [name for name in names if name not in plans]
    leaked = [str(name) for name in ours if name.suffix in {".rs", ".toml", ".lock"} or "tests" in name.parts]
    assert plans
    assert leaked == []


def test_the_wheel_has_every_python_file_of_the_tree(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".py", ".pyi"))}
    tree = {
        path.relative_to(ROOT).as_posix()
        for package in ("slackwater", "pyworker", "loadgen")
        for path in (ROOT / package).rglob("*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    assert held == tree


def test_the_wheel_has_the_extension_with_its_types(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"slackwater/_native.abi3.so", "slackwater/py.typed", "pyworker/py.typed", "loadgen/py.typed"} <= held
    (entries,) = (name for name in held if name.endswith(".dist-info/entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entries).decode()
    scripts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert scripts == {
        "slackwater": "slackwater:main",
        "slackwater-worker": "pyworker.cli:main",
        "slackwater-loadgen": "loadgen.cli:main",
    }


def test_the_base_install_asks_for_no_torch(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = archive.read(name).decode().splitlines()
    required = [line.split(": ", 1)[1] for line in lines if line.startswith("Requires-Dist: ")]
    base = {requirement.split(">")[0] for requirement in required if "extra ==" not in requirement}
    assert base.isdisjoint({"torch", "transformers", "safetensors", "tokenizers", "accelerate", "gguf"})
    assert any(requirement.startswith("torch") and "extra == 'worker'" in requirement for requirement in required)


def test_the_source_archive_has_what_a_build_needs(sdist: Path) -> None:
    needed = {"Cargo.toml", "Cargo.lock", "pyproject.toml", "rust-toolchain.toml", "LICENSE", "README.md"}
    assert needed <= {path.name for path in sdist.iterdir()}
    for folder in ("bindings", "kernels", "router/core", "router/server", "router/wire", "router/zmtp"):
        assert (sdist / folder / "src" / "lib.rs").is_file(), folder
    for package in ("slackwater", "pyworker", "loadgen"):
        assert (sdist / package / "__init__.py").is_file(), package


@pytest.mark.timeout(600)
def test_the_source_archive_compiles_by_itself(sdist: Path) -> None:
    # The target folder of the tree, where the dependencies have been compiled already.
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    environment = {**os.environ, "CARGO_TARGET_DIR": target, "PYO3_PYTHON": sys.executable}
    command = ["cargo", "check", "--quiet", "--locked", "-p", "slackwater-bindings"]
    result = subprocess.run(command, cwd=sdist, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
