"""What is here is finished and its tests run."""

from __future__ import annotations

import re

from tests.rules.tree import ROOT, files

LATER = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK|Not" r"ImplementedError)\b")
MUTED = re.compile(r"(mark|pytest)\.(skip|skipif|xfail|importorskip)\b")
REASONS = ("not installed", "/proc", "Linux")  # what a machine may lack: a program of others, a kernel
LACKS = {"tests/integration/js/toolchain.py"}  # finds out whether this machine has npm and can use it

TEXT = {
    ".cfg",
    ".css",
    ".html",
    ".js",
    ".lua",
    ".md",
    ".mjs",
    ".py",
    ".service",
    ".sh",
    ".sql",
    ".toml",
    ".ts",
    ".yml",
    "",
}


def test_nothing_is_left_for_later() -> None:
    """An issue is the place for it."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files("daemon", "tests", "bench", "docs", "systemd", ".ci", "requirements")
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if LATER.search(line)
    ]
    assert found == []


def test_no_test_is_switched_off() -> None:
    """A test that can't pass is repaired or removed."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files("tests", suffix=".py")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if MUTED.search(line)
        and not any(reason in line for reason in REASONS)
        and path.relative_to(ROOT).as_posix() not in LACKS
    ]
    assert found == []
