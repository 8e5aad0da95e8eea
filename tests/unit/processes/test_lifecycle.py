"""Signals in their order, signs of life fed by work, and how late the loop is."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from daemon.config import SystemdSettings
from daemon.observability.metrics import Metrics
from daemon.processes import lifecycle
from daemon.processes.lifecycle import (
    LAG_WARN_S,
    Notifier,
    Progress,
    Signals,
    collect_rarely,
    inherited_socket,
    is_shared,
    sample_loop_lag,
)
from tests.waiting import WaitUntil

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A test that fails must not leave its handlers behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_each_later_one_cuts(
    new_loop: Callable[[], asyncio.AbstractEventLoop], number: signal.Signals
) -> None:
    """On both loops, for both signals; the events say the same as the calls."""
    calls: list[str] = []

    async def life() -> None:
        signals = Signals(on_stop=lambda: calls.append("stop"), on_force_stop=lambda: calls.append("cut"))
        with signals:
            os.kill(os.getpid(), number)
            await asyncio.wait_for(signals.draining.wait(), 5)
            assert (calls, signals.force_stop.is_set()) == (["stop"], False)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(signals.force_stop.wait(), 5)
            assert calls == ["stop", "cut"]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(life())


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_sighup_reloads_and_stops_nothing(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """As often as it comes."""

    async def life() -> None:
        reloaded = asyncio.Event()
        with Signals(on_reload=reloaded.set) as signals:
            for _ in range(2):
                reloaded.clear()
                os.kill(os.getpid(), signal.SIGHUP)
                await asyncio.wait_for(reloaded.wait(), 5)
            assert not signals.draining.is_set()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(life())


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_handlers_are_put_back(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Whoever embeds the daemon gets its own signals back; without callbacks nothing else happens."""
    seen: list[int] = []

    def own(number: int, _: object) -> None:
        seen.append(number)

    signal.signal(signal.SIGTERM, own)
    signal.signal(signal.SIGHUP, own)

    async def life() -> None:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(signals.draining.wait(), 5)
        assert seen == []
        assert signal.getsignal(signal.SIGTERM) is own
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(life())
    assert seen == [signal.SIGTERM, signal.SIGHUP]


def test_a_loop_that_makes_no_progress_is_stalled() -> None:
    """Each by its own limit; one that ended is not missed."""
    now = 100.0
    progress = Progress(lambda: now)
    read, beat = progress.watch("read", 60), progress.watch("beat", 10)
    assert progress.stalled() == []
    now += 10
    assert progress.stalled() == []  # the limit itself is fine
    now += 0.1
    assert progress.stalled() == ["beat"]
    beat()
    assert progress.stalled() == []
    now += 60
    assert progress.stalled() == ["read", "beat"]
    progress.forget("beat")
    progress.forget("beat")
    read()
    assert progress.stalled() == []


async def test_without_systemd_nothing_is_sent_and_following_ends_at_once() -> None:
    """On a developer's machine and in a container; a kind of socket we don't speak counts as none."""
    for settings in (SystemdSettings(), SystemdSettings(notify_socket="vsock:2:1234")):
        notifier = Notifier(settings)
        assert notifier.send("READY=1") is False
        await asyncio.wait_for(notifier.follow(asyncio.Event(), asyncio.Event()), 1)


async def test_how_late_the_loop_is_gets_observed(
    wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block of the loop is in the histogram, and in the log when it was long."""
    monkeypatch.setattr("daemon.processes.lifecycle.LAG_WARN_S", 0.05)
    metrics = Metrics(process=False)
    histogram = metrics.loop_lag_seconds

    async with asyncio.TaskGroup() as group:
        sampler = group.create_task(sample_loop_lag(metrics, every_s=0.01))
        await wait_until(lambda: histogram._sum.get() > 0, description="a first sample")
        before = histogram._sum.get()
        time.sleep(0.1)  # noqa: ASYNC251  # the fault under test
        await wait_until(lambda: histogram._sum.get() > before + 0.05, description="the block of 100 ms in the sum")
        sampler.cancel()
    assert "loop.lagged" in capsys.readouterr().err
    assert LAG_WARN_S > 0.05


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `asyncio.wait_for` of Python 3.11 lets it happen: the process must end all the same."""
    monkeypatch.setattr(lifecycle, "CANCEL_AGAIN_S", 0.01)

    async def deaf() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(deaf()) for _ in range(2)]
        await asyncio.sleep(0)
        await lifecycle.end(tasks)
    assert all(task.cancelled() for task in tasks)


def test_a_socket_for_another_process_is_not_ours() -> None:
    """systemd names the process that it listened for; a child that inherited the variables must not take it."""
    assert inherited_socket(SystemdSettings()) is None
    assert inherited_socket(SystemdSettings(listen_pid=1, listen_fds=1)) is None
    assert inherited_socket(SystemdSettings(listen_pid=os.getpid(), listen_fds=0)) is None


def test_a_loop_that_knows_itself_when_it_hangs_is_asked() -> None:
    """Its names count beside those that missed their stamp."""
    progress = Progress(lambda: 100.0)
    hanging: list[str] = []
    progress.ask(lambda: hanging)
    assert progress.stalled() == []
    hanging.append("read:q")
    assert progress.stalled() == ["read:q"]


def test_what_was_imported_is_looked_through_no_more() -> None:
    before = gc.get_threshold()
    gc.set_threshold(700)  # Python's own; a test before this one may have run a whole process' start
    try:
        collect_rarely()
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] >= 7000
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:24F8 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 100 0 0 10 0
   2: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 100 0 0 10 0
"""


def test_a_port_is_shared_when_two_sockets_listen_there(tmp_path: Path) -> None:
    """Connections do not count, nor other ports; a table that cannot be read says nothing."""
    table = tmp_path / "tcp"
    table.write_text(TABLE)
    assert not is_shared("http://127.0.0.1:9464", [str(table), str(tmp_path / "tcp6")])
    table.write_text(TABLE + TABLE.splitlines()[1] + "\n")
    assert is_shared("http://127.0.0.1:9464", [str(table)])
    assert not is_shared("http://127.0.0.1:8080", [str(table)])
