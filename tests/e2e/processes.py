"""Daemons as users run them: processes of their own, with real signals and nothing of our environment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from daemon.dev.embedded import free_port
from tests import last_words
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
#: what a Python process needs of its surroundings, and what counts lines in it
KEPT: Final = ("PATH", "HOME", "TMPDIR", "COV")
START_S: Final = 20.0  #: a start takes half a second; a busy machine several


class Process(Protocol):
    """As much of `subprocess.Popen` as the suites use."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


#: starts a Python with these arguments and nothing but these variables; what it says is appended to the file
Spawn = Callable[[Sequence[str], Mapping[str, str], Path], Process]


def spawn(arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> Process:
    """A Python as users start it."""
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )


def spawn_in(folder: Path) -> Spawn:
    """Starts Pythons whose `daemon` is the one in `folder`, not ours."""

    def spawned(arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> Process:
        # Lines are not counted: the copy is gone when they would be looked up.
        given = {name: value for name, value in variables.items() if not name.startswith("COV")}
        with log.open("ab") as said:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, env=given, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )

    return spawned


class DaemonProcess:
    """`python -m daemon --queues …`; killed at the end if it still runs."""

    def __init__(
        self, name: str, queues: str, variables: Mapping[str, str], directory: Path, spawned_by: Spawn = spawn
    ) -> None:
        self.name = name
        self.port = free_port()
        self._queues = queues
        self._variables = variables
        self._log = directory / f"{name}.log"
        self._spawn = spawned_by
        self._process: Process | None = None
        self.began = 0.0

    def start(self, command: Sequence[str] = ("-m", "daemon")) -> None:
        """Start the process; `ready` waits for it. `command` replaces the program, not its arguments."""
        kept = {k: v for k, v in os.environ.items() if k.startswith(KEPT)}
        env = {**kept, "OPS_PORT": str(self.port), **self._variables}
        self.began = time.monotonic()
        last_words.of(self.name, self.words)
        given = {name: value for name, value in env.items() if value}
        self._process = self._spawn([*command, "--queues", self._queues], given, self._log)

    async def ready(self) -> float:
        """Seconds from start until it reads its queues."""
        await self.logged("daemon.started", within_s=START_S)
        return time.monotonic() - self.began

    async def logged(self, event: str, within_s: float = 10) -> dict[str, Any]:
        """The first line of that event; fails with what was said when the process ends before."""

        def seen() -> dict[str, Any] | None:
            gone = not self.running
            found = self.log(event)
            assert found or not gone, f"{self.name} ended with {self.exit_code}:\n{self.words()[-3000:]}"
            return found[0] if found else None

        return await wait_until(seen, description=f"{event} in the log of {self.name}", within_s=within_s)

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is there (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        """Any signal; nothing happens when it is gone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and it does nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    async def stop(self, within_s: float = 20) -> int:
        """SIGTERM; its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended(within_s)

    async def ended(self, within_s: float = 20) -> int:
        """Wait until it is gone; its exit code, negative for a signal."""
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {within_s} s:\n{self.words()[-3000:]}") from None

    def discard(self) -> None:
        """End it in any way."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def words(self) -> str:
        """All that it said."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """Its lines, those of one event or all; what is not JSON (a traceback) is left out."""
        found = []
        for line in self.words().splitlines():
            with suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict) and event in ("", fields.get("event")):
                    found.append(fields)
        return found

    def resident_kb(self) -> int:
        """Memory that is its own or shared with nobody else, in KiB (`Rss` of the kernel's roll-up)."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text("ascii")
        return int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Rss:")))
