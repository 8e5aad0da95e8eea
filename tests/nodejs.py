"""npm packages for tests that let the official JavaScript clients and compilers speak.

Installed once, by exact version and without running their scripts, into a cache outside the repository.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

TYPESCRIPT: Final = "typescript@5.9.3"


def installed(name: str, packages: Sequence[str]) -> Path:
    """The directory that holds `node_modules` with `packages`; skips the test where node or npm can't provide it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    directory = Path.home() / ".cache" / "qstreamd" / "npm" / name
    directory.mkdir(parents=True, exist_ok=True)
    wanted, stamp = "\n".join(packages), directory / "installed"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run in several processes
        if not stamp.exists() or stamp.read_text() != wanted:
            options = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(directory))
            found = subprocess.run(
                [npm, "install", *options, *packages], capture_output=True, text=True, timeout=120, check=False
            )
            if found.returncode != 0:
                pytest.skip(f"{', '.join(packages)} are not installed: {found.stderr[-200:]}")
            stamp.write_text(wanted)
    return directory


def run(directory: Path, *arguments: object, given: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """What `node` with these arguments and this input ended with; `env` is added to its environment."""
    added = [f"{name}={value}" for name, value in env.items()]
    return subprocess.run(
        ["/usr/bin/env", *added, "node", *map(str, arguments)],
        cwd=directory, capture_output=True, input=given, text=True, timeout=60, check=False,
    )  # fmt: skip
