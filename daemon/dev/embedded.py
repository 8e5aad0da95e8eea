"""A real server as a child of this process: for the demo, the tests and the bench.

`Embedded` owns one server process: its private directory (0700), its own process group (Ctrl-C in a terminal does not
reach it, so we can drain before it goes), and its end: it never outlives us, not even after `kill -9`. Redis and
Postgres add only how to lay out data and how to start. Production code never imports this module.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

#: what a child sees of the environment: nothing of ours, so that no secret and no PG* or REDIS* variable reaches it
CHILD_ENV: Final = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}

#: The kernel closes our end of the pipe however we end; only then does `read` fail. A pipe and not PR_SET_PDEATHSIG:
#: that one is Linux only and fires when the *thread* that started the server ends. Each line names the process to end
#: and the signal that ends it at once: its data goes with it, so nothing is worth a clean stop. SIGKILL follows only
#: after the 5 s that Postgres gives its own children.
_WATCHER: Final = """
pid=0
while read -r next name; do pid=$next; signal=$name; done
if [ "$pid" != 0 ]; then
  kill -CONT "$pid"; kill -s "$signal" "$pid"
  n=0; while kill -0 "$pid" && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  kill -KILL "$pid"
fi
rm -rf -- "$1"
"""

#: above most of what has a name, and below what kernels hand to clients (from 32768 on Linux, 49152 elsewhere): between
#: our look and the server's start nobody takes it by chance
_PORTS: Final = range(20_000, 32_000)
_turns: Final = itertools.count(os.getpid() * 997)  # processes that start servers at once begin far from each other


class EmbeddedError(Exception):
    """The server did not start or is not installed; the message ends with what the server itself last said."""


class Embedded(ABC):
    """One server: `start`, `stop`, `kill`, `pause`, `resume`, `restart` on the same data and address, then `close`.

    A context manager that starts on entry and closes on exit. All calls block (tens of milliseconds, `start` at most
    `start_timeout_s`) and may be repeated. Not for use by several threads at once.
    """

    name: str = "server"
    transient: tuple[str, ...] = ()  #: last words after which a start is worth another try
    stop_signal: signal.Signals = signal.SIGTERM  #: ends it in good order: connections closed, data written
    end_signal: signal.Signals = signal.SIGKILL  #: ends it at once with all its children
    start_timeout_s: float = 20.0
    stop_timeout_s: float = 10.0

    def __init__(self) -> None:
        self.directory = private_directory(f"qstreamd-{self.name}-")
        self._log = os.open(self.directory / "log", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._process: subprocess.Popen[bytes] | None = None
        self._user: int | None = None  # run as this user and group; None: as ourselves
        self._group: int | None = None
        self._env: Mapping[str, str] = CHILD_ENV
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "watcher", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=CHILD_ENV,
            bufsize=0,
            cwd="/",
        )
        self._closed = False

    # what a kind of server adds

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it; the same over restarts."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The command that runs the server in the foreground; lays out its data when there is none yet."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether it takes clients now."""

    # what all share

    @property
    def pid(self) -> int:
        """The server's process id; `EmbeddedError` when it does not run."""
        if self._process is None:
            raise EmbeddedError(f"{self.name} does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Run it until it takes clients; `EmbeddedError` with its last words when it does not."""
        deadline = time.monotonic() + self.start_timeout_s
        while not self.running:
            heard = os.fstat(self._log).st_size
            self._spawn()
            if self._wait_ready(deadline):
                return
            self.kill()
            words = self.last_words(since=heard)
            if time.monotonic() > deadline or not any(word in words for word in self.transient):
                raise EmbeddedError(f"{self.name} did not start:\n{words}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in good order; its data stays. Killed when it takes longer than `stop_timeout_s`."""
        if self._process is None:
            return
        if self.running:
            self.resume()
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(self.stop_timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reap()

    def kill(self) -> None:
        """SIGKILL to it and to all its children, as when the machine loses power; its data stays."""
        if self._process is None:
            return
        if self.running:
            self._signal_family(signal.SIGKILL)
            self._process.wait(self.stop_timeout_s)
        self._reap()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as when a host hangs."""
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._signal_family(signal.SIGCONT)

    def restart(self) -> None:
        """`stop`, then `start` on the same data and address."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it and delete its directory."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait(self.stop_timeout_s)
        os.close(self._log)

    def last_words(self, *, since: int = 0, lines: int = 12) -> str:
        """The end of the server's own log, not before byte `since`."""
        size = os.fstat(self._log).st_size
        tail = os.pread(self._log, 8192, max(since, size - 8192)).decode("utf-8", "replace")
        return "\n".join(tail.splitlines()[-lines:])

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self) -> None:
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self.directory,
            user=self._user,
            group=self._group,
            extra_groups=None if self._group is None else [],
            start_new_session=True,
            env=self._env,
        )
        self._tell_watcher(f"{self._process.pid} {self.end_signal.name.removeprefix('SIG')}")

    def _wait_ready(self, deadline: float) -> bool:
        while self.running and time.monotonic() < deadline:
            if self._ready():
                return True
            time.sleep(0.005)
        return False

    def _reap(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._tell_watcher("0 none")  # its number may belong to a stranger from now on
            self._process = None

    def _tell_watcher(self, line: str) -> None:
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(line.encode() + b"\n")

    def _signal_family(self, number: signal.Signals) -> None:
        """To the server and its children: each Postgres connection is a process of its own."""
        if not self.running:
            return
        os.kill(self.pid, signal.SIGSTOP)  # first, so that no further child starts while we look for those there are
        for pid in (*children(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def children(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Process ids of the direct children of `pid`; asks `ps` where there is no `proc`."""
    listing = proc / f"{pid}/task/{pid}/children"
    if listing.exists():
        return [int(word) for word in listing.read_text().split()]
    rows = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=10)
    pairs = [row.split() for row in rows.stdout.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def private_directory(prefix: str) -> Path:
    """A new directory (0700) whose path leaves room for a socket's name (103 bytes in all on macOS)."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    if len(str(directory)) > 80:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    return directory.resolve()


def free_port() -> int:
    """A loopback TCP port that nobody listens on at this moment; another one each time, and none that a client gets."""
    for at in itertools.islice(_turns, len(_PORTS)):
        port = _PORTS[at % len(_PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EmbeddedError(f"no free port from {_PORTS.start} to {_PORTS.stop}")
