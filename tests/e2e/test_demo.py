"""`python -m daemon demo` as people run it: it ends well, it complains well, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
import redis

from daemon.dev.fake_llm import FakeLLM
from daemon.domain.queues import DEFAULT_QUEUES
from tests.waiting import WaitUntil

ROOT: Final = Path(__file__).parents[2]
FIRST_TOKEN_S: Final = 10.0  #: promised for a warm start

pytestmark = pytest.mark.timeout(120)


class Run:
    """One demo with a temp directory of its own, by which everything that belongs to it is found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._out = directory.with_name(directory.name + ".out")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, terminal: int | None = None, **variables: str) -> None:
        """Start it; `terminal` is the descriptor of a pseudo-terminal to show it on."""
        known = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "DATABASE_URL", "NO_COLOR")}
        with self._out.open("wb") as out, self.errors_path.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "daemon", "demo", *arguments],
                cwd=ROOT,
                env={**known, "TMPDIR": str(self.directory), "TERM": "xterm", **variables},
                stdin=subprocess.DEVNULL,
                stdout=out if terminal is None else terminal,
                stderr=err if terminal is None else terminal,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The demo itself."""
        assert self._process is not None
        return self._process

    @property
    def errors_path(self) -> Path:
        """What it wrote to stderr."""
        return self.directory.with_name(self.directory.name + ".err")

    @property
    def said(self) -> str:
        """What it wrote to stdout so far."""
        return self._out.read_text("utf-8")

    async def end(self, within_s: float = 60) -> int:
        """Its exit status."""
        return await asyncio.to_thread(self.process.wait, within_s)

    def left(self) -> list[str]:
        """Files and processes of it that are still there, the demo itself excepted."""
        return [*map(str, self.directory.iterdir()), *(line for _, line in self.processes())]

    def processes(self) -> list[tuple[int, str]]:
        """Every process that names the directory in its arguments or, for relay and daemon, in its environment."""
        found = []
        for line in subprocess.run(["/bin/ps", "axeww", "-o", "pid=,args="], capture_output=True, text=True, check=True,
                                   timeout=10).stdout.splitlines():  # fmt: skip
            pid, _, text = line.strip().partition(" ")
            if str(self.directory) in text and int(pid) != self.process.pid:
                found.append((int(pid), text[:160]))
        return found

    def pid_of(self, part: str) -> int | None:
        """The relay's or the daemon's process id."""
        return next((pid for pid, line in self.processes() if f"-m daemon {part}" in line), None)

    def destroy(self) -> None:
        """Whatever a failed test leaves."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)
        for path in (self._out, self.errors_path):
            path.unlink(missing_ok=True)


@pytest.fixture
def demo() -> Iterator[Run]:
    """A demo not yet started."""
    directory = Path(tempfile.mkdtemp(prefix="demo-test-"))  # pytest's own are closed to the user that runs Postgres
    directory.chmod(0o755)
    run = Run(directory)
    yield run
    run.destroy()


async def test_every_task_ends_as_it_should_and_nothing_stays(demo: Run) -> None:
    """From nothing to eight results, with the first token within ten seconds; stdout is one JSON object."""
    demo.start("--json")
    assert await demo.end() == 0, demo.errors_path.read_text()
    told = json.loads(demo.said)
    assert told["ok"] is True
    assert {task["queueId"] for task in told["tasks"]} == set(DEFAULT_QUEUES)
    assert {task["state"] for task in told["tasks"]} == {"done"}
    assert [task["attempt"] for task in told["tasks"]].count(2) == 1
    assert [row["code"] for row in told["rows"] if row["outcome"] != "done"] == ["LLM_ERROR"]
    assert told["firstTokenS"] <= FIRST_TOKEN_S
    seen = demo.errors_path.read_text("utf-8")
    assert "LLM_ERROR after" in seen and "| Dear Fjordlight team," in seen and "三个优点" in seen
    assert demo.left() == []


@pytest.mark.parametrize("provider", ["deepseek", "gemini"])
async def test_one_task_on_a_provider_that_is_not_embedded(demo: Run, provider: str) -> None:
    """With the key, the address and the model of whoever runs it; nothing else is called, and nothing stays."""
    key = "test-key-0123456789"
    async with FakeLLM(tokens_per_s=500, first_token_s=0.01) as theirs:
        url = theirs.gemini_url if provider == "gemini" else theirs.openai_url
        named: dict[str, Any] = {f"{provider.upper()}_API_KEY": key, f"{provider.upper()}_BASE_URL": url}
        demo.start("--real", provider, "--yes", "--json", **named)
        assert await demo.end() == 0, demo.errors_path.read_text()
        [call] = theirs.calls
    told = json.loads(demo.said)
    [task] = told["tasks"]
    assert (told["ok"], task["state"], task["serviceId"], call.stream) == (True, "done", "first-words", True)
    seen = demo.errors_path.read_text("utf-8")
    assert f"of {provider}" in seen and "at most" in seen and key not in seen + demo.said
    assert demo.left() == []


async def test_a_real_provider_is_not_called_unasked_or_without_its_key(demo: Run) -> None:
    async with FakeLLM() as theirs:
        demo.start("--real", "deepseek", DEEPSEEK_API_KEY="test-key-0123456789", DEEPSEEK_BASE_URL=theirs.openai_url)
        assert await demo.end() == 2
        assert "--yes" in demo.errors_path.read_text("utf-8")
        demo.start("--real", "openai", "--yes", OPENAI_API_KEY="")
        assert await demo.end() == 78
        assert "OPENAI_API_KEY" in demo.errors_path.read_text("utf-8")
        assert theirs.calls == []


async def test_after_sigkill_everything_goes_by_itself(demo: Run, wait_until: WaitUntil) -> None:
    """Servers, relay, daemon and directories: nobody has to clean up by hand."""
    demo.start("--plain")
    await wait_until(lambda: "started    attempt 1" in demo.said, description="tasks run", within_s=30)
    assert demo.pid_of("relay") and demo.pid_of("--queues")
    demo.process.kill()
    await wait_until(lambda: not demo.left(), description="nothing is left", within_s=20)


async def test_ctrl_c_on_a_terminal_ends_it_and_gives_the_cursor_back(demo: Run, wait_until: WaitUntil) -> None:
    """In the middle of the live view."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    shown = bytearray()

    def drawn(wanted: bytes) -> bool:
        with suppress(BlockingIOError, OSError):
            while part := os.read(ours, 65536):
                shown.extend(part)
        return wanted in shown

    try:
        demo.start(terminal=theirs)
        os.close(theirs)
        await wait_until(lambda: drawn("│ ".encode()), description="text streams", within_s=30)
        demo.process.send_signal(signal.SIGINT)
        await wait_until(lambda: drawn(b"\x1b[?25h"), description="the cursor is back", within_s=15)
        assert await demo.end(20) == 130
    finally:
        os.close(ours)
    assert demo.left() == []


@pytest.mark.parametrize("part", ["relay", "--queues"])
async def test_a_part_that_ends_is_told_with_its_last_words(demo: Run, wait_until: WaitUntil, part: str) -> None:
    """And the rest goes with it."""
    demo.start()
    await wait_until(lambda: "published" in demo.said, description="tasks are published", within_s=30)
    pid = demo.pid_of(part)
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    assert await demo.end(20) == 1
    name = part.replace("--queues", "daemon")
    assert f"✗ {name} ended by itself" in demo.said and "│ " in demo.said and f"{name}.stopped" in demo.said
    assert demo.left() == []


@pytest.mark.long
async def test_kept_it_does_what_it_says_on_the_servers_it_was_given(
    demo: Run, wait_until: WaitUntil, redis_url: str, postgres_url: str
) -> None:
    """The commands that it prints work as they stand there, until Ctrl-C."""
    demo.start("--keep", REDIS_URL=redis_url, DATABASE_URL=postgres_url)
    await wait_until(lambda: "/_fake/calls" in demo.said, description="it stays", within_s=60)
    assert "given" in demo.said and not [d for d in demo.directory.iterdir() if "postgres" in d.name]
    [page] = re.findall(r"The page: (http://\S+)", demo.said)
    assert "<title>qstreamd</title>" in await asyncio.to_thread(shell, f"curl -sS {page}/")
    printed = demo.said[demo.said.index("Publish a task as Next.js would") :]
    commands = [part.strip() for part in printed.replace("\\\n", "").splitlines() if part.startswith("  ")]
    assert len(commands) == 4
    outputs = [await asyncio.to_thread(shell, command) for command in (commands[2], commands[0], commands[1])]
    assert json.loads(outputs[1])["messageId"].startswith("msg_")
    events = [json.loads(line) for line in outputs[2].splitlines()]
    assert [event["type"] for event in events][-1] == "done"
    assert max(event["attempt"] for event in events) == 2  # commands[2] made the first answer break off
    assert await fetch(postgres_url, "SELECT count(*) FROM qstreamd.results") == 9
    demo.process.send_signal(signal.SIGINT)
    assert await demo.end(20) == 0
    assert demo.left() == []


async def test_it_does_not_answer_for_others(demo: Run, redis_url: str, postgres_url: str) -> None:
    """A given Redis where somebody works, or of another environment, is left alone."""
    with redis.Redis.from_url(redis_url) as client:
        client.xadd("{bp:queue:q_paid_stream}:tasks", {"task": "{}"})
        demo.start(REDIS_URL=redis_url, DATABASE_URL=postgres_url)
        assert await demo.end() == 1
        assert "q_paid_stream of REDIS_URL holds tasks" in demo.said and "unset REDIS_URL" in demo.said
        assert client.dbsize() == 1
        client.flushdb()
        client.set("qstreamd:environment", "production")
        demo.start(REDIS_URL=redis_url, DATABASE_URL=postgres_url)
        assert await demo.end() == 1
        assert "belongs to another environment: b'production'" in demo.said
    assert demo.left() == []


def shell(command: str) -> str:
    """What a command that was printed says when it is pasted into a shell."""
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def fetch(url: str, query: str) -> Any:
    """One value."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(query, timeout=10)
    finally:
        await connection.close(timeout=5)
