"""A daemon as systemd runs it: the test holds the other end of NOTIFY_SOCKET."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.waiting import WaitUntil

#: a daemon whose loop stands still when it is told so, as after a bug that computes for ever
CAN_HANG = """
import signal, time
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3))
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))
from daemon.__main__ import main
main()
"""

pytestmark = pytest.mark.timeout(120)


class Systemd:
    """Everything that was said, in order."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.setblocking(False)  # noqa: FBT003  # its only form
        self.lines: list[str] = []

    def heard(self, line: str) -> int:
        """How often, so far."""
        while True:
            try:
                self.lines += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return sum(said.startswith(line) for said in self.lines)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """Listens."""
    found = Systemd(tmp_path / "notify")
    yield found
    found.socket.close()


async def test_a_daemon_tells_systemd_of_its_life(world: World, systemd: Systemd, wait_until: WaitUntil) -> None:
    """Ready when it reads and not before; alive while it works and drains; stopping, with what still runs."""
    daemon = world.new_daemon(NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="400000")
    daemon.start()
    await wait_until(lambda: systemd.heard("READY=1"), description="ready", within_s=30)
    assert await daemon.logged("daemon.started")
    groups = await world.redis.xinfo_groups("{bp:queue:q_paid_stream}:tasks")
    assert [group["name"] for group in groups] == ["daemon"]
    await world.publish("t1", tokens=1000)
    await world.seen("t1", "token_batch")
    await wait_until(lambda: systemd.heard("STATUS=running 1 of"), description="what it does")
    daemon.signal(signal.SIGTERM)
    await wait_until(lambda: systemd.heard("STOPPING=1"), description="stopping")
    before = systemd.heard("WATCHDOG=1")
    await wait_until(lambda: systemd.heard("STATUS=draining: 1 still run"), description="what it waits for")
    await wait_until(lambda: systemd.heard("WATCHDOG=1") > before + 2, description="alive while it drains")
    assert systemd.heard("EXTEND_TIMEOUT_USEC=") > 0
    assert await daemon.ended() == 0
    assert (await world.ended("t1"))["type"] == "done"
    assert (systemd.heard("READY=1"), systemd.heard("STOPPING=1")) == (1, 1)
    await world.check()


async def test_a_daemon_that_can_not_start_never_says_ready(world: World, systemd: Systemd) -> None:
    """Postgres is away: 75, and systemd was told nothing."""
    daemon = world.new_daemon(NOTIFY_SOCKET=systemd.address, DATABASE_URL="postgresql://x:y@127.0.0.1:1/z")
    daemon.start()
    assert await daemon.ended(30) == 75
    assert systemd.heard("READY=1") == 0


async def test_a_loop_that_stands_still_gives_no_sign(world: World, systemd: Systemd, wait_until: WaitUntil) -> None:
    """Nothing for longer than WatchdogSec, upon which systemd would restart it; then signs again."""
    daemon = world.new_daemon(NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="400000")
    daemon.start(("-c", CAN_HANG))
    await wait_until(lambda: systemd.heard("WATCHDOG=1"), description="a sign of life", within_s=30)
    daemon.signal(signal.SIGUSR2)
    pauses: list[float] = []
    systemd.socket.settimeout(20)
    for _ in range(60):
        pauses.append(await next_word(systemd))
        if pauses[-1] > 2:
            break
    assert max(pauses) > 2, pauses
    systemd.socket.setblocking(False)  # noqa: FBT003
    before = systemd.heard("WATCHDOG=1")
    await wait_until(lambda: systemd.heard("WATCHDOG=1") > before, description="signs again")
    assert await daemon.stop() == 0


@pytest.mark.long
async def test_a_loop_that_hangs_for_ever_is_ended_and_its_task_runs_again(world: World, systemd: Systemd) -> None:
    """F17, the test playing systemd: no sign of life for WatchdogSec, SIGABRT, a new start. One crash is counted."""
    watched = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "2000000"}
    daemon = world.new_daemon(**watched)
    daemon.start(("-c", CAN_HANG))
    await daemon.ready()
    await world.publish("t1", tokens=600)
    await world.seen("t1", "token_batch")
    daemon.signal(signal.SIGUSR1)
    await silence(systemd, 2.0)
    assert daemon.running
    daemon.signal(signal.SIGABRT)
    assert await daemon.ended() == -signal.SIGABRT
    await world.start_daemon(**watched)
    done = await world.ended("t1")
    assert (done["type"], done["attempt"]) == ("done", 2)
    await world.check()
    assert (await world.row("t1"))["crashes"] == 1


async def silence(systemd: Systemd, seconds: float) -> None:
    """Returns when nothing was said for so long."""
    systemd.socket.settimeout(seconds)
    for _ in range(1000):
        try:
            await next_word(systemd)
        except TimeoutError:
            return
    raise AssertionError(systemd.lines[-10:])


async def next_word(systemd: Systemd) -> float:
    """Seconds until the next word."""
    began = time.monotonic()
    said = await asyncio.to_thread(systemd.socket.recv, 4096)
    systemd.lines += said.decode().split("\n")
    return time.monotonic() - began
