"""What is installed: the wheel and not the tree, without torch where none is needed, and with honest type stubs."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

EXTRAS = ("torch", "transformers", "safetensors", "tokenizers", "accelerate", "gguf", "plotly")
"""What `slackwater[worker]`, `[convert]`, `[report]` and `[tokenizer]` bring."""

BASE = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
names = ["slackwater", "slackwater._native.kernels", "slackwater._native.text", "pyworker.errors"]
for package in ("pyworker.wire", "pyworker.transport", "pyworker.engine", "pyworker.kvcache", "loadgen"):
    module = importlib.import_module(package)
    names += [package, *(found.name for found in pkgutil.walk_packages(module.__path__, package + "."))]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.mark.parametrize("name", ["slackwater", "pyworker", "loadgen"])
def test_tests_run_against_the_installed_wheel(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).is_relative_to(sysconfig.get_path("purelib")), f"{file}: install the wheel, and call `pytest`"


def test_what_a_client_needs_imports_without_torch() -> None:
    command = [sys.executable, "-I", "-c", BASE, *EXTRAS]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10


def test_the_names_that_users_import_are_looked_up_late() -> None:
    slackwater = importlib.import_module("slackwater")
    for name in slackwater.__all__:
        assert getattr(slackwater, name).__module__.startswith("pyworker.")
    with pytest.raises(AttributeError, match="no attribute 'Slack'"):
        _ = slackwater.Slack


def test_submodules_of_the_extension_import_by_their_full_names() -> None:
    native = importlib.import_module("slackwater._native")
    for name in ("kernels", "sampling", "text"):
        assert importlib.import_module(f"slackwater._native.{name}") is getattr(native, name)
    assert sorted(native.__all__) == ["kernels", "main", "sampling", "text"]
