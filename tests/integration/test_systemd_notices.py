"""What systemd hears over its socket, read from a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemon.config import SystemdSettings
from daemon.processes.lifecycle import Notifier, Progress
from tests.waiting import WaitUntil


@dataclass
class Systemd:
    """The other end of NOTIFY_SOCKET."""

    sock: socket.socket
    address: str
    lines: list[str] = field(default_factory=list)

    def heard(self) -> list[str]:
        """Every line so far, or since they were cleared."""
        while True:
            try:
                self.lines += self.sock.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.lines


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """Both kinds of address."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    address = f"@qstreamd-{secrets.token_hex(8)}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0") if address[0] == "@" else address)
        sock.setblocking(False)  # noqa: FBT003  # its only form
        yield Systemd(sock, address)


async def test_a_life_is_told_in_order(systemd: Systemd, wait_until: WaitUntil) -> None:
    """Not ready before it is; signs of life from then on and while it drains; stopping once."""
    settings = SystemdSettings(notify_socket=systemd.address, watchdog_usec=100_000, watchdog_pid=os.getpid())
    ready, quiet = asyncio.Event(), asyncio.Event()
    status = "reading 2 queues"

    def count(line: str) -> int:
        return systemd.heard().count(line)

    async with asyncio.TaskGroup() as group:
        watch = group.create_task(Notifier(settings).follow(ready, quiet, lambda: status))
        await asyncio.sleep(0)
        assert count("READY=1") == 0
        ready.set()
        await wait_until(lambda: count("WATCHDOG=1") >= 3, description="three signs of life")
        status = "draining 7 tasks\nsecond line"
        quiet.set()
        await wait_until(lambda: count("STOPPING=1") == 1, description="stopping")
        before = count("WATCHDOG=1")
        await wait_until(lambda: count("WATCHDOG=1") >= before + 3, description="signs of life while draining")
        watch.cancel()
    told = systemd.heard()
    assert told[:2] == ["READY=1", "STATUS=reading 2 queues"]
    assert told.count("READY=1") == told.count("STOPPING=1") == 1
    assert told[told.index("STOPPING=1") + 1] == "STATUS=draining 7 tasks"


async def test_a_stalled_loop_gets_no_sign_of_life(
    systemd: Systemd, wait_until: WaitUntil, capsys: pytest.CaptureFixture[str]
) -> None:
    """Systemd then restarts the process; the log names the loop once. Progress brings the signs back."""
    now = 0.0
    progress = Progress(lambda: now)
    worked = progress.watch("read:q_paid_stream", 30)
    notifier = Notifier(SystemdSettings(notify_socket=systemd.address, watchdog_usec=20_000), progress)
    ready, quiet = asyncio.Event(), asyncio.Event()
    ready.set()

    async with asyncio.TaskGroup() as group:
        watch = group.create_task(notifier.follow(ready, quiet, lambda: "working"))
        await wait_until(lambda: "WATCHDOG=1" in systemd.heard(), description="a sign of life")
        now = 31.0
        systemd.heard().clear()
        await wait_until(lambda: len(systemd.heard()) >= 4, description="four notices")
        assert set(systemd.lines) == {"STATUS=working"}
        worked()
        await wait_until(lambda: "WATCHDOG=1" in systemd.heard(), description="signs of life again")
        watch.cancel()
    log = capsys.readouterr().err
    assert log.count("watchdog.withheld") == 1 and "read:q_paid_stream" in log


async def test_a_drain_that_goes_on_asks_for_more_time(systemd: Systemd, wait_until: WaitUntil) -> None:
    """One that is set longer than TimeoutStopSec is not killed in the middle; one that hangs is."""
    hanging: list[str] = []
    progress = Progress()
    progress.ask(lambda: hanging)
    notifier = Notifier(SystemdSettings(notify_socket=systemd.address, watchdog_usec=20_000), progress)
    ready, quiet = asyncio.Event(), asyncio.Event()
    ready.set()
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(notifier.follow(ready, quiet, lambda: "working"))
        await wait_until(lambda: "WATCHDOG=1" in systemd.heard(), description="a sign of life")
        assert not [line for line in systemd.lines if line.startswith("EXTEND")]
        quiet.set()
        await wait_until(lambda: "EXTEND_TIMEOUT_USEC=40000" in systemd.heard(), description="more time, four beats")
        hanging.append("read:q_paid_stream")
        systemd.heard().clear()
        await wait_until(lambda: len(systemd.heard()) >= 4, description="four notices")
        assert set(systemd.lines) == {"STATUS=working"}
        watch.cancel()


@pytest.mark.parametrize("rounds", range(5))
async def test_a_process_with_nothing_to_drain_ends_at_once(
    systemd: Systemd, wait_until: WaitUntil, rounds: int
) -> None:
    """Cancelled some rounds of the loop after the word to stop: a wait that has just ended must not swallow it."""
    ready, draining = asyncio.Event(), asyncio.Event()
    ready.set()
    watch = asyncio.ensure_future(  # noqa: TID251  # awaited below
        Notifier(SystemdSettings(notify_socket=systemd.address)).follow(ready, draining)
    )
    await wait_until(lambda: "READY=1" in systemd.heard(), description="ready")
    draining.set()
    for _ in range(rounds):
        await asyncio.sleep(0)
    watch.cancel()
    done, _ = await asyncio.wait([watch], timeout=2)
    watch.cancel()
    assert done and watch.cancelled()


async def test_without_a_watchdog_only_the_state_is_told(systemd: Systemd, wait_until: WaitUntil) -> None:
    """No WatchdogSec, or one meant for another process."""
    for settings in (
        SystemdSettings(notify_socket=systemd.address),
        SystemdSettings(notify_socket=systemd.address, watchdog_usec=20_000, watchdog_pid=os.getpid() + 1),
    ):
        ready, quiet = asyncio.Event(), asyncio.Event()
        ready.set()
        quiet.set()
        systemd.lines.clear()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(Notifier(settings).follow(ready, quiet))
            await wait_until(lambda: len(systemd.heard()) >= 2, description="both states")
            watch.cancel()
        assert systemd.heard()[:2] == ["READY=1", "STOPPING=1"] and "WATCHDOG=1" not in systemd.heard()


def test_a_systemd_that_went_away_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said once, not every few seconds; and said again after it came back and left."""
    address = str(tmp_path / "notify")
    notifier = Notifier(SystemdSettings(notify_socket=address))
    assert [notifier.send("WATCHDOG=1") for _ in range(3)] == [False] * 3
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        assert notifier.send("WATCHDOG=1") is True
    assert notifier.send("WATCHDOG=1") is False
    assert capsys.readouterr().err.count("systemd.unreachable") == 2
