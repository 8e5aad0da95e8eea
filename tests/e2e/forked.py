"""Daemons and relays forked from a process that has imported everything: a start costs 60 ms of a core, not 500.

What runs is what `python -m daemon` runs, in a process of its own with its own variables, log and signals; only the
imports came before. For suites that start hundreds; how a start itself behaves is tested where one is a start.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final

#: read when Python starts: the fork server is not measured, nor what it forks
_COVERAGE: Final = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


class Forked:
    """One process; as much of `subprocess.Popen` as the suites use."""

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        log.touch()  # the process opens it in its own time
        target = (list(arguments), dict(variables), str(log))
        self._process = _context().Process(target=_live, args=target, daemon=True)
        self._asking = threading.Lock()  # whoever reads the exit code takes it from the pipe
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        with self._asking:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it is gone."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
            time.sleep(0.01)
        return code

    def send_signal(self, sig: int) -> None:
        """Any signal; nothing happens when it is gone."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """SIGKILL."""
        with self._asking:
            self._process.kill()


def fork(arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> Forked:
    """A `tests.e2e.processes.Spawn` for `-m daemon …`."""
    assert tuple(arguments[:2]) == ("-m", "daemon"), arguments
    return Forked(arguments[2:], variables, log)


@cache
def _context() -> ForkServerContext:
    """With its server running: it imports once, for this whole session."""
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.e2e.imported"])
    kept = {name: os.environ.pop(name) for name in _COVERAGE if name in os.environ}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.update(kept)
    return context


def _live(arguments: list[str], variables: dict[str, str], log: str) -> None:
    """The whole life of a forked process."""
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.close(said)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["daemon", *arguments]

    from daemon.cli import main

    main()
