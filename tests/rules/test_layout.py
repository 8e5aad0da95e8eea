"""The tree tells the story: a stranger guesses the file from the question."""

from __future__ import annotations

import ast
from fnmatch import fnmatch

import pytest

from tests.rules.tree import ROOT, files

TOP = set(
    """
    .ci .dockerignore .env.example .env.production.example .git .gitignore .luacheckrc CHANGELOG.md CONTRIBUTING.md
    Dockerfile LICENSE Makefile README.md README.zh-CN.md bench daemon docker-compose.yml docs pyproject.toml
    requirements systemd tests
    """.split()
)

#: names that say nothing: such a file collects what nobody placed
VAGUE = {"base", "common", "core", "helper", "helpers", "manager", "misc", "shared", "stuff", "tools", "util", "utils"}

#: fixtures that start a server, and calls that open a socket or start a process
FIXTURES = {"postgres_server", "postgres_settings", "postgres_url", "redis_server", "redis_settings", "redis_url"}
CALLS = set(
    """
    Popen TCPSite TestClient TestServer check_call check_output create_connection create_server create_subprocess_exec
    open_connection start_server
    """.split()
)


def test_the_top_level_holds_only_what_a_newcomer_expects() -> None:
    """One screen of names; what is generated is ignored by git."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines() if line]
    names = {path.name for path in ROOT.iterdir()}
    assert {n for n in names - TOP if not any(fnmatch(n, pattern) for pattern in ignored)} == set()


def test_no_file_has_a_name_that_says_nothing() -> None:
    """One file, one noun."""
    parts = {
        part for path in files("daemon", "tests", "bench") for part in path.relative_to(ROOT).with_suffix("").parts
    }
    assert parts & VAGUE == set()


def test_every_package_can_be_imported() -> None:
    """A directory with modules is a package, so that the wheel holds it."""
    folders = {path.parent for path in files("daemon", suffix=".py")}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


UNIT = [str(path.relative_to(ROOT)) for path in files("tests/unit", suffix=".py") if path.name.startswith("test_")]


@pytest.mark.parametrize("name", UNIT)
def test_unit_tests_lie_where_their_module_lies(name: str) -> None:
    """`daemon/queues/admission.py` is tested by `tests/unit/queues/test_admission.py` (or `test_admission_….py`)."""
    test = ROOT / name
    folder = ROOT / "daemon" / test.parent.relative_to(ROOT / "tests" / "unit")
    noun = test.stem.removeprefix("test_")
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert any(noun == module or noun.startswith(f"{module}_") for module in modules), f"no module for {name}"


@pytest.mark.parametrize("name", UNIT)
def test_unit_tests_need_no_server(name: str) -> None:
    """What opens sockets or starts processes is an integration test."""
    nodes = list(ast.walk(ast.parse((ROOT / name).read_text("utf-8"))))
    asked = {node.arg for node in nodes if isinstance(node, ast.arg)}
    called = {called_name(node.func) for node in nodes if isinstance(node, ast.Call)}
    assert (asked & FIXTURES) | (called & CALLS) == set()


def called_name(function: ast.expr) -> str:
    """`f` for both `f()` and `x.f()`."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
