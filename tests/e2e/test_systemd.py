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


async def next_word(systemd: Systemd) -> float:
    """Seconds until the next word."""
    began = time.monotonic()
    said = await asyncio.to_thread(systemd.socket.recv, 4096)
    systemd.lines += said.decode().split("\n")
    return time.monotonic() - began
