"""Node for tests: the one place that decides whether a test with a JavaScript client can run on this machine.

No node or npm, or no way to install the locked packages: the test is skipped and says why. With
TEST_REQUIRE_NODE=1 it fails instead, so that a CI machine cannot lose these tests unseen.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REQUIRED = os.environ.get("TEST_REQUIRE_NODE") == "1"  # noqa: TID251 - a switch of the suite, not of the product
INSTALL_S = 50.0
SCRIPT_S = 40.0


def unavailable(reason: str) -> None:
    """Skip this test with the reason, or fail it where node is required. Does not return."""
    if REQUIRED:
        pytest.fail(f"JavaScript clients are required here: {reason}")
    pytest.skip(f"the official JavaScript client was not run: {reason}")


def node_modules(cache_dir: Path) -> Path:
    """The installed packages of the lock file, kept in `cache_dir`. Skips the test where that cannot be."""
    outcome = _install(cache_dir)
    if isinstance(outcome, str):
        unavailable(outcome)
    assert isinstance(outcome, Path)
    return outcome


@cache
def _install(cache_dir: Path) -> Path | str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "this machine has no node and npm (node 18 or later brings both)"
    lock = (HERE / "package-lock.json").read_bytes()
    home = cache_dir / hashlib.sha256(lock).hexdigest()[:16]
    if (home / "node_modules").is_dir():
        return home / "node_modules"
    cache_dir.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed: a test run that is cut, or one beside this, never leaves half an installation.
    with tempfile.TemporaryDirectory(dir=cache_dir) as aside:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, aside)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        try:
            done = subprocess.run(command, cwd=aside, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            return f"npm ci did not end within {INSTALL_S:.0f} s"
        if done.returncode != 0:
            return f"npm ci failed: {(done.stderr.strip().splitlines() or ['no message'])[0][:200]}"
        try:
            Path(aside).rename(home)
            Path(aside).mkdir()  # what the context manager expects to remove
        except OSError:
            if not (home / "node_modules").is_dir():
                raise
    return home / "node_modules"


async def run_script(modules: Path, name: str, environment: dict[str, str], *arguments: str) -> str:
    """What a script of this directory prints. Fails the test with its complaint if it ends badly or hangs."""
    node = shutil.which("node")
    assert node is not None, "node_modules() comes first"
    process = await asyncio.create_subprocess_exec(
        node,
        str(HERE / name),
        *arguments,
        env={"NODE_PATH": str(modules), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, complaint = await asyncio.wait_for(process.communicate(), SCRIPT_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, f"{name} ended with {process.returncode}:\n{complaint.decode()[-2000:]}"
    return out.decode()
