"""A process and those who start and stop it: signals, systemd, signs of life, how late the event loop is, garbage.

Knows nothing of tasks or queues: the composition roots beside it hand in what is to be told and done. Nothing here
can end a process or fail a task: a supervisor that does not listen is not our problem.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from asyncio import Event
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

from daemon.config import SystemdSettings
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics

STATUS_EVERY_S: Final = 5.0  #: how old the line in `systemctl status` may be
_FIRST_INHERITED: Final = 3  #: sd_listen_fds(3)
_LISTENING: Final = "0A"  #: TCP_LISTEN in /proc/net/tcp
_EXTEND_BEATS: Final = 4  #: a drain has so many beats to say that it goes on
CANCEL_AGAIN_S: Final = 1.0  #: pause before a task that survived its cancellation is cancelled again
#: allocations before the youngest objects are looked through for cycles; Python's own 700 suits short scripts
_YOUNG: Final = 20_000
LAG_WARN_S: Final = 0.5  #: a loop so late delays every beat and every viewer

_log: Final = logger("lifecycle")
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def _nothing() -> None:
    pass


class Signals:
    """First SIGTERM or SIGINT: `on_stop` (drain). Every later one: `on_force_stop` (now). SIGHUP: `on_reload`.

    A context manager for the main thread of a running loop, asyncio's or uvloop's. Whoever has no callbacks may wait
    for the events `draining` and `force_stop`. Leaving it puts the handlers back that were there before.
    """

    def __init__(
        self,
        *,
        on_stop: Callable[[], None] = _nothing,
        on_force_stop: Callable[[], None] = _nothing,
        on_reload: Callable[[], None] = _nothing,
    ) -> None:
        self.draining = asyncio.Event()
        self.force_stop = asyncio.Event()
        self._on_stop = on_stop
        self._on_force_stop = on_force_stop
        self._on_reload = on_reload
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            self._before[number] = signal.getsignal(number)
            loop.add_signal_handler(number, self._stop, number)
        self._before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number, handler in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _stop(self, number: signal.Signals) -> None:
        again = self.draining.is_set()
        _log.info("signal.received", signal=number.name, meaning="force_stop" if again else "drain")
        if not again:
            self.draining.set()
            self._on_stop()
        else:
            self.force_stop.set()
            self._on_force_stop()

    def _reload(self) -> None:
        _log.info("signal.received", signal="SIGHUP", meaning="reload")
        self._on_reload()


@dataclass(slots=True)
class _Stamp:
    limit_s: float
    at: float


class Progress:
    """Whether the loops that do the work still do it; the watchdog is fed by this and by nothing else."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._stamps: dict[str, _Stamp] = {}
        self._others: list[Callable[[], list[str]]] = []

    def watch(self, name: str, limit_s: float) -> Callable[[], None]:
        """The function that this loop calls each time round, at least once in `limit_s` seconds, idle or not."""
        stamp = self._stamps[name] = _Stamp(limit_s, self._now())

        def progress() -> None:
            stamp.at = self._now()

        return progress

    def forget(self, name: str) -> None:
        """This loop ended as it should; may be called twice."""
        self._stamps.pop(name, None)

    def ask(self, stalled: Callable[[], list[str]]) -> None:
        """Count what `stalled` names as well: loops that wait for good reasons and know themselves when they hang."""
        self._others.append(stalled)

    def stalled(self) -> list[str]:
        """Names of the loops that are over their limit."""
        now = self._now()
        over = [name for name, stamp in self._stamps.items() if now - stamp.at > stamp.limit_s]
        return [*over, *(name for others in self._others for name in others())]


class Notifier:
    """Tells systemd the truth: ready, stopping, one line of status, and signs of life only while work goes on.

    Without systemd it does nothing. Sending never waits and never raises.
    """

    def __init__(self, settings: SystemdSettings, progress: Progress | None = None) -> None:
        self.progress = progress or Progress()
        self._address = _address(settings.notify_socket)
        mine = settings.watchdog_pid in (None, os.getpid())  # systemd means the main process, not its children
        self._watchdog_s = settings.watchdog_usec / 1e6 if settings.watchdog_usec and mine else None
        self._withheld = False
        self._unreachable = False

    def send(self, *lines: str) -> bool:
        """Hand lines such as `READY=1` to systemd in one datagram; False when nobody took them."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._unreachable:
                _log.warning("systemd.unreachable", reason=error)
            self._unreachable = True
            return False
        self._unreachable = False
        return True

    async def follow(self, ready: Event, draining: Event, status: Callable[[], str] | None = None) -> None:
        """Keep systemd informed until cancelled; returns at once where there is no systemd.

        `ready` and `draining` say when the process is; `status` makes the line for `systemctl status`.
        """
        if self._address is None:
            return
        await ready.wait()
        self.send("READY=1", *_status(status))
        every_s = min(STATUS_EVERY_S, self._watchdog_s / 2 if self._watchdog_s else STATUS_EVERY_S)
        while not draining.is_set():
            self._report(status)
            with suppress(TimeoutError):  # not wait_for, which swallows a cancellation that comes with the word to stop
                async with asyncio.timeout(every_s):
                    await draining.wait()
        self.send("STOPPING=1", *_status(status))
        while True:  # a drain lasts minutes: the watchdog goes on biting
            if not self.progress.stalled():  # one that is set longer than TimeoutStopSec is no hang
                self.send(f"EXTEND_TIMEOUT_USEC={int(_EXTEND_BEATS * every_s * 1e6)}")
            self._report(status)
            await asyncio.sleep(every_s)

    def _report(self, status: Callable[[], str] | None) -> None:
        lines = _status(status)
        stalled = self.progress.stalled() if self._watchdog_s else []
        if stalled and not self._withheld:
            _log.error("watchdog.withheld", stalled=stalled)  # systemd restarts us unless the loops come back
        self._withheld = bool(stalled)
        if self._watchdog_s and not stalled:
            lines.append("WATCHDOG=1")
        if lines:
            self.send(*lines)


def inherited_socket(settings: SystemdSettings) -> socket.socket | None:
    """The listening socket that systemd made for this process, or None. Raises OSError when it is no socket."""
    if settings.listen_pid != os.getpid() or not settings.listen_fds:
        return None
    return socket.socket(fileno=_FIRST_INHERITED)


def is_shared(address: str, tables: Iterable[str] = ("/proc/net/tcp", "/proc/net/tcp6")) -> bool:
    """Whether another process of this host listens on the port of `address` too; no where the kernel does not say."""
    end, found = f":{int(address.rpartition(':')[2]):04X}", 0
    for table in tables:
        with suppress(OSError):
            rows = [line.split() for line in Path(table).read_text("ascii").splitlines()[1:]]
            found += sum(row[3] == _LISTENING and row[1].endswith(end) for row in rows)
    return found > 1


def _address(notify_socket: str | None) -> str | None:
    """The socket's name as Python wants it; None when there is none or it is of a kind (vsock) we don't speak."""
    if not notify_socket or notify_socket[0] not in "/@":
        return None
    return "\0" + notify_socket[1:] if notify_socket[0] == "@" else notify_socket


def _status(status: Callable[[], str] | None) -> list[str]:
    return [f"STATUS={status().splitlines()[0]}"] if status is not None else []


async def sample_loop_lag(metrics: Metrics, *, every_s: float = 1.0) -> None:
    """Observe how late the loop wakes a sleeper, once in `every_s` seconds, until cancelled."""
    while True:
        due = time.monotonic() + every_s  # not loop.time(): uvloop's stands still between two rounds
        await asyncio.sleep(every_s)
        lag_s = max(0.0, time.monotonic() - due)
        metrics.loop_lag_seconds.observe(lag_s)
        if lag_s > LAG_WARN_S:
            _log.warning("loop.lagged", lag_s=round(lag_s, 3))


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until all have ended.

    Once is not enough: on Python 3.11 `asyncio.wait_for`, in which redis-py sends, may swallow a cancellation, and a
    process that waits for such a loop neither works nor goes.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)


def collect_rarely() -> None:
    """What was imported is never looked through again, and the rest less often. Called once everything is imported.

    Tasks free nearly all they use by counting references. Looking for cycles every 700 allocations took a tenth of a
    busy daemon's CPU (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)
