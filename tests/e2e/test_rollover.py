"""A rollover with real daemons of two releases: the command's own steps, with processes in place of systemd's units.

The second release is a copy of ours whose Lua scripts differ by a comment, so that none of them has the SHA that the
other release loads and calls.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from daemon.admin.rollover import MIB, Rollover, Unit
from daemon.domain.errors import ConfigError
from tests.e2e.processes import ROOT, DaemonProcess, Spawn, spawn, spawn_in
from tests.e2e.world import CALM, World
from tests.waiting import wait_until

GAP_S: Final = 2.0  #: the longest pause between two starts of tasks
OLD, NEW = "1.0", "1.1"

pytestmark = pytest.mark.timeout(180)


@dataclass
class Processes:
    """Systemd as far as a rollover asks for it: daemons that are ready when they say so on their socket."""

    world: World
    releases: dict[str, Spawn]
    current: str = OLD
    variables: dict[str, str] = field(default_factory=dict)  #: more settings for those that start from now on
    daemons: dict[str, DaemonProcess] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    told_at: dict[str, float] = field(default_factory=dict)  #: by name of the process: when it was told to stop
    available_mib: int = 4096

    async def instances(self) -> list[str]:
        return [name.removeprefix("qstreamd@") for name in self.daemons]

    async def look(self, name: str) -> Unit:
        unit = self.units.get(name, Unit(name))
        daemon = self.daemons.get(name)
        state = "inactive"
        if daemon is not None and daemon.running:
            state = "deactivating" if daemon.name in self.told_at else "active"
        return Unit(
            name, state, unit.enabled, unit.pid, unit.release, 80 * MIB, unit.since,
            exit_code=(daemon.exit_code if daemon else None) or 0,
        )  # fmt: skip

    async def start(self, name: str) -> bool:
        if name == "qstreamd-migrate":  # the world's database is up to date
            return True
        address = str(self.world.directory / f"{name}.{len(self.world.daemons)}")
        self.world.spawned_by = self.releases[self.current]
        shared = {"OPS_PORT": str(next(iter(self.daemons.values())).port)} if self.daemons else {}
        daemon = self.world.new_daemon(**shared, **self.variables, NOTIFY_SOCKET=address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(address)
            notified.setblocking(False)  # noqa: FBT003  # its only form
            daemon.start()
            self.daemons[name] = daemon
            self.units[name] = Unit(name, enabled=True, pid=daemon.pid, release=self.current, since=time.monotonic())
            await wait_until(lambda: is_ready(notified) or not daemon.running, description="READY=1", within_s=30)
        return daemon.running

    async def stop(self, name: str) -> None:
        self.told_at[self.daemons[name].name] = time.time()
        self.daemons[name].signal(signal.SIGTERM)

    async def enable(self, name: str) -> None:
        pass

    async def disable(self, name: str) -> None:
        pass

    async def words(self, name: str, lines: int) -> list[str]:
        return self.daemons[name].words().splitlines()[-lines:]

    # --- the host ---

    def release(self) -> str:
        return self.current

    def shares_port(self, release: str) -> bool:
        return release in self.releases

    def ops_port(self, name: str) -> str:
        return name

    def name_of(self, instance: str) -> str:
        return instance.rpartition("-")[0]

    def names(self) -> list[str]:
        return ["paid"]

    def link_settings(self, name: str) -> None:
        assert name == "paid"

    def available(self) -> int:
        return self.available_mib * MIB


def is_ready(notified: socket.socket) -> bool:
    try:
        return b"READY=1" in notified.recv(4096)
    except BlockingIOError:
        return False


@pytest.fixture
def processes(world: World, tmp_path: Path) -> Processes:
    """Nothing runs yet. The world's times are those of a host on which nobody dies."""
    world.variables |= CALM | {"QUEUE_PARALLELISM_PAID_STREAM": "6", "QUEUE_PARALLELISM_PAID_BATCH": "6"}
    folder = tmp_path / "release"
    shutil.copytree(ROOT / "daemon", folder / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
    scripts = sorted((folder / "daemon").rglob("*.lua"))
    assert len(scripts) > 20
    for script in scripts:
        script.write_text(script.read_text("utf-8") + "\n-- of the next release\n", "utf-8")
    return Processes(world, {OLD: spawn, NEW: spawn_in(folder)})


async def starts(world: World) -> dict[str, float]:
    """When each task was started, in order: server time of its `started` event."""
    found = {task: e["id"] for task in world.published for e in await world.events(task) if e["type"] == "started"}
    at = {task: int(entry.partition("-")[0]) / 1000 for task, entry in found.items()}
    return dict(sorted(at.items(), key=lambda pair: pair[1]))


async def test_no_pause_is_longer_than_two_seconds_while_releases_replace_each_other(processes: Processes) -> None:
    """Under load, there and back: every task runs once and ends, the one that stops reads for less than 1 s more."""
    world, said = processes.world, list[str]()
    await processes.start("qstreamd@paid-a")
    names = [f"t{number}" for number in range(300)]
    await world.publish_many(names, tokens=60)
    await world.seen("t5", "started")
    began = time.time()
    for release, place in ((NEW, "qstreamd@paid-b"), (OLD, "qstreamd@paid-a")):
        await asyncio.sleep(1)  # of work by one of them alone
        processes.current = release
        [outcome] = await Rollover(processes, processes, said.append, poll_s=0.05).run([])
        assert (outcome.action, outcome.unit) == ("rolled", place), said
    backlog = await world.redis.xlen("{bp:queue:q_paid_stream}:tasks")
    assert backlog > 20, "too little load to see a pause"
    await world.quiescent(60)
    at = await starts(world)
    gap_s, since = max((later - earlier, earlier) for earlier, later in pairwise(at.values()) if earlier > began)
    assert gap_s <= GAP_S, f"nothing started for {gap_s:.2f} s from {since:.1f} on\n" + "\n".join(said)
    old, new, back = world.daemons
    for daemon in (old, new):
        assert await daemon.ended() == 0
        late = max(at[line["task_id"]] for line in daemon.log("attempt.ended")) - processes.told_at[daemon.name]
        assert late < 1, f"{daemon.name} started a task {late:.2f} s after it was told to stop"
    assert all(daemon.log("attempt.ended") for daemon in world.daemons)
    assert [line for daemon in world.daemons for line in daemon.log() if line["level"] == "error"] == []
    history = await world.check(calls_max=1)
    assert history.states() == {"done": len(names)} and history.calls() == len(names)
    assert back.running


async def test_a_new_release_that_does_not_start_leaves_the_old_one_at_work(processes: Processes) -> None:
    """A setting that it refuses: exit 78, named; the old one was told nothing and takes tasks as before."""
    world = processes.world
    await processes.start("qstreamd@paid-a")
    processes.current, processes.variables = NEW, {"QSTREAMD_LEASE_S": "0"}
    with pytest.raises(ConfigError, match=r"(?s)qstreamd@paid-b did not become ready; the old one goes on.*LEASE_S"):
        await Rollover(processes, processes, lambda _: None, settle_s=0.5, poll_s=0.05).run([])
    old, bad = world.daemons
    assert old.running and bad.exit_code == 78 and not old.log("daemon.draining")
    await world.publish("t1")
    assert (await world.ended("t1"))["type"] == "done"


async def test_a_rollover_that_was_killed_after_the_start_is_finished(processes: Processes) -> None:
    """Two run, each task once; the next rollover stops the old one and starts nobody."""
    world = processes.world
    await processes.start("qstreamd@paid-a")
    processes.current = NEW
    await processes.start("qstreamd@paid-b")  # and here it was killed
    await world.publish_many([f"t{number}" for number in range(40)], tokens=40)
    [outcome] = await Rollover(processes, processes, lambda _: None, poll_s=0.05).run([])
    assert (outcome.action, outcome.unit, outcome.stopped) == ("resumed", "qstreamd@paid-b", ["qstreamd@paid-a"])
    old, new = world.daemons
    assert (old.exit_code, new.running) == (0, True)
    await world.publish("late")
    await world.check(calls_max=1)
