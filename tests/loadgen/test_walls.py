"""What may import what: the parts that only count stay pure, and nobody pays for a library that is not used."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import loadgen

ROOT = Path(loadgen.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PURE = ("plan", "stats", "measure", "report")
IMPURE = (
    "socket", "asyncio", "time", "random", "uvloop", "httptools", "subprocess", "threading", "multiprocessing",
    "select", "http", "urllib.request", "zmq",
)  # fmt: skip
NEVER = (
    "torch",
    "transformers",
    "pandas",
    "aiohttp",
    "requests",
    "httpx",
    "pickle",
    "marshal",
    "shelve",
    "scipy",
    "hdrh",
)
OPTIONAL = ("plotly", "tokenizers")


def name(path: Path) -> str:
    return ".".join(["loadgen", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path, *, everywhere: bool = True) -> set[str]:
    """Full names that a file imports; not `everywhere`: when it is itself imported."""
    found: set[str] = set()
    left: list[ast.AST] = [tree(path)]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif not everywhere and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        left += ast.iter_child_nodes(node)
    return found


def hits(found: set[str], forbidden: tuple[str, ...]) -> set[str]:
    return {each for each in found for bad in forbidden if each == bad or each.startswith(f"{bad}.")}


def under(part: str) -> list[Path]:
    return [path for path in FILES if path.relative_to(ROOT).parts[0] == part]


@pytest.mark.parametrize("part", PURE)
def test_what_only_counts_reads_no_clock_and_opens_no_socket(part: str) -> None:
    files = under(part)
    assert files
    assert {name(path): bad for path in files if (bad := hits(imports(path), IMPURE))} == {}


def test_pure_parts_import_no_part_that_is_not() -> None:
    others = tuple(f"loadgen.{part}" for part in ("drive", "run", "jobs", "faults", "observe", "mock", "experiment"))
    # Readers of a run's files, and the oracle, which is arithmetic.
    allowed = {"loadgen.run.files", "loadgen.run.series", "loadgen.mock.oracle", "loadgen.mock.ask"}

    def bad(path: Path) -> set[str]:
        return {each for each in hits(imports(path), others) if ".".join(each.split(".")[:3]) not in allowed}

    found = {name(path): each for part in PURE for path in under(part) if (each := bad(path) - {"loadgen.run"})}
    assert found == {}
    for module in ("mock/oracle.py", "mock/ask.py"):
        assert hits(imports(ROOT / module), IMPURE) == set()


def test_the_load_process_knows_of_no_report() -> None:
    forbidden = tuple(
        f"loadgen.{part}" for part in ("report", "run", "observe", "experiment", "jobs", "commands", "cli")
    )
    assert {name(path): bad for path in under("drive") if (bad := hits(imports(path), forbidden))} == {}


def test_libraries_that_nobody_may_use() -> None:
    assert {name(path): bad for path in FILES if (bad := hits(imports(path), NEVER))} == {}


def test_optional_libraries_are_imported_where_they_are_used() -> None:
    assert {name(path): bad for path in FILES if (bad := hits(imports(path, everywhere=False), OPTIONAL))} == {}


def test_only_the_wire_front_knows_the_worker() -> None:
    found = [name(path) for path in FILES if hits(imports(path), ("pyworker", "slackwater"))]
    assert found == ["loadgen.mock.wire"]


def calls(path: Path) -> set[str]:
    return {
        node.func.id for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def test_no_eval_and_no_hash_of_the_process() -> None:
    assert {name(path): bad for path in FILES if (bad := calls(path) & {"eval", "exec", "hash", "__import__"})} == {}


def test_no_global_randomness() -> None:
    """A plan depends on its seed alone: numbers come from generators that are handed in."""
    known = {"Generator", "Philox", "SeedSequence"}
    found = {
        (name(path), node.attr)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "random"
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id in ("np", "numpy")
        and node.attr not in known
    }
    assert found == set()
    assert {name(path) for path in FILES if hits(imports(path), ("random",))} == set()


def test_no_bare_except() -> None:
    found = [
        name(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert found == []


def modules_after(code: str) -> set[str]:
    """Top-level names that a new interpreter has loaded after `code`."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_command_line_is_light() -> None:
    heavy = {"plotly", "tokenizers", "rich", "torch", "scipy", "aiohttp", "uvloop", "zmq", "pyworker", "httptools"}
    assert modules_after("import loadgen.cli") & heavy == set()


@pytest.mark.parametrize("module", ["pyworker.wire", "pyworker.transport", "loadgen.mock.wire"])
def test_the_wire_needs_no_torch(module: str) -> None:
    assert modules_after(f"import {module}") & {"torch", "transformers"} == set()


def test_every_module_loads_without_what_is_optional() -> None:
    """As on a machine with the base install only."""
    names = [name(path) for path in FILES if path.name != "__main__.py" and name(path) != "loadgen.mock.wire"]
    blocked = [*NEVER, *OPTIONAL, "pyworker"]
    for kept in ("pickle", "marshal", "shelve"):  # of the standard library, which numpy itself loads
        blocked.remove(kept)
    code = (
        "import sys, importlib\n"
        f"blocked = {blocked!r}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in blocked: raise ImportError(f'{name} is not installed')\n"
        "sys.meta_path.insert(0, Block())\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    assert modules_after(code) & {*NEVER[:4], *OPTIONAL} == set()
