"""The core by itself: a copy of the package without the rooms beside it still takes a call and runs its task."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.processes import ROOT, spawn_in
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(120)

#: what the core does not know; some of them are still to come
BESIDE: Final = ("admin", "callbacks", "contract_docs", "dev", "gateway", "handlers")


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A directory with nothing but the package, without those rooms."""
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "daemon", tmp_path / "core" / "daemon", ignore=leave_out)
    for room in BESIDE:
        shutil.rmtree(tmp_path / "core" / "daemon" / room, ignore_errors=True)
    return tmp_path / "core"


@pytest.fixture
async def world(redis_url: str, postgres_url: str, tmp_path: Path, core: Path) -> AsyncIterator[World]:
    """Its relay and daemons are those of the copy."""
    async with World(redis_url, postgres_url, tmp_path, spawned_by=spawn_in(core)) as world:
        yield world


async def test_relay_and_daemon_run_a_task(world: World) -> None:
    """`relay` and `--queues …`: from the signed call to the ack, one result, nothing left behind."""
    daemon = await world.start_daemon()
    await world.publish("t1", tokens=20)
    assert (await world.ended("t1"))["type"] == "done"
    await world.publish("t2", "f-500-once")
    assert (await world.ended("t2"))["type"] == "done"
    await world.check()
    assert await daemon.stop() == 0


def test_only_commands_that_are_there_are_offered(core: Path) -> None:
    """The others are unknown, as any word is that names no command."""

    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daemon", *arguments], cwd=core, capture_output=True, text=True, check=False
        )

    commands = ran("--help").stdout.split("Commands:")[1].split("Example:")[0]
    assert {line.split()[0] for line in commands.splitlines() if line[2:3].strip()} == {
        "run", "relay", "migrate", "healthcheck", "completion", "config",
    }  # fmt: skip
    refused = ran("gateway")
    assert (refused.returncode, "No such command 'gateway'" in refused.stderr) == (2, True)
    assert ran("config").returncode == 0
    assert "daemon.contract_docs" in ran("config", "--docs").stderr
