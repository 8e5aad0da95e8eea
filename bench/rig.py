"""Fresh servers and the processes under test: made for one case, gone with it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis

from bench import machine
from bench.recorder import Records
from daemon.dev.embedded import free_port
from daemon.dev.embedded_postgres import EmbeddedPostgres
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.store.migrate import migrate

ROOT: Final = Path(__file__).resolve().parents[1]
SERVICES: Final = ROOT / "bench" / "services.toml"
PEERS_PYTHON: Final = ROOT / ".venv-bench" / "bin" / "python"
QUEUE: Final = "q_paid_batch"
_KEPT: Final = ("PATH", "HOME", "LANG", "TMPDIR")


class Broken(Exception):
    """A process under test ended or did not get there; its last words are in it."""


class Program:
    """One process under test."""

    def __init__(self, command: list[str], env: Mapping[str, str], folder: Path) -> None:
        self.log = folder / f"log-{secrets.token_hex(3)}"
        kept = {name: value for name, value in os.environ.items() if name in _KEPT}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env={**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **env}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, cwd=folder,
            )  # fmt: skip
        self.pid = self._process.pid

    @property
    def family(self) -> list[int]:
        """It and its children."""
        return machine.family(self.pid)

    def words(self) -> str:
        """The end of what it said."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-15:])

    def check(self) -> None:
        """Raises `Broken` when it is gone."""
        if self._process.poll() is not None:
            raise Broken(f"ended with {self._process.returncode}:\n{self.words()}")

    def kill(self) -> None:
        """SIGKILL to the whole family."""
        for pid in self.family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(10)

    def stop(self, patience_s: float = 8.0) -> None:
        """SIGTERM, then SIGKILL. Repeatable."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.kill()


class Rig:
    """A context manager: whatever was started in it ends with it, in reverse order."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="qstreamd-bench-"))
        self.folder.chmod(0o755)
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._postgres: EmbeddedPostgres | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def redis(self, *, persist: bool = False) -> EmbeddedRedis:
        """A fresh, empty server. Without `persist` nothing is written to disk, as peers are usually measured."""
        return self._stack.enter_context(EmbeddedRedis(persist=persist))

    def database(self, *, durable: bool = False) -> str:
        """The URL of a fresh migrated database; the server is shared by the rig."""
        if self._postgres is None:
            options = {"synchronous_commit": "on"} if durable else {}
            self._postgres = self._stack.enter_context(EmbeddedPostgres(durable=durable, options=options))
            asyncio.run(migrate(self._postgres.url))
        name = f"bench_{secrets.token_hex(4)}"
        asyncio.run(_clone(self._postgres.url, name))
        return self._postgres.url_of(name)

    @property
    def postgres_pid(self) -> int:
        """The server's process."""
        assert self._postgres is not None
        return self._postgres.pid

    def records(self) -> Records:
        """A fresh directory for recorders."""
        return Records(Path(tempfile.mkdtemp(prefix="rec-", dir=self.folder)))

    def run(self, module: str, *arguments: str, env: Mapping[str, str], peer: bool = False) -> Program:
        """`python -m module`, of the product's environment or of the peers'."""
        python = str(PEERS_PYTHON) if peer else sys.executable
        program = Program([python, "-m", module, *arguments], env, self.folder)
        self._stack.callback(program.stop)
        return program

    def daemon(self, redis_url: str, database: str, records: Records, *queues: str, **more: str) -> Program:
        """Our daemon with the instant provider."""
        env = {**daemon_env(redis_url, database), "RECORDER_DIR": str(records.directory), **more}
        return self.run("bench.programs.daemon_instant", ",".join(queues or (QUEUE,)), env=env)


def daemon_env(redis_url: str, database: str) -> dict[str, str]:
    """Settings of a daemon under test: as shipped, but for limits that would refuse a flood."""
    return {
        "NODE_ENV": "development", "REDIS_URL": redis_url, "DATABASE_URL": database, "OPS_PORT": str(free_port()),
        "SERVICES_FILE": str(SERVICES), "QUEUE_MAX_SIZE": "10000000", "QSTREAMD_LOG_LEVEL": "warning",
        "QSTREAMD_LOG_FORMAT": "json", "OPENAI_API_KEY": "bench-bench-bench", "QUEUE_PARALLELISM_PAID_BATCH": "100",
        "QUEUE_PARALLELISM_PAID_STREAM": "100", "QSTREAMD_DRAIN_S": "1",
    }  # fmt: skip


async def _clone(url: str, name: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template1", timeout=30)
    finally:
        await connection.close(timeout=5)
    parts = urlsplit(url)
    await migrate(urlunsplit(parts._replace(path=f"/{name}")))


def wait_for(predicate: Callable[[], Any], program: Program | None, within_s: float, what: str) -> None:
    """Return when it is true; `Broken` when the program ends before, or nothing happens."""
    deadline = time.monotonic() + within_s
    while not predicate():
        if program is not None:
            program.check()
        if time.monotonic() > deadline:
            raise Broken(f"{what}: not within {within_s:g} s\n{program.words() if program else ''}")
        time.sleep(0.002)


def commands(url: str) -> dict[str, int]:
    """Calls by command so far, scripts' inner ones included."""
    with redis.Redis.from_url(url) as client:
        stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()}
