from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from daemon.dev.embedded import Embedded, EmbeddedError, children, private_directory
from daemon.dev.embedded_redis import EmbeddedRedis
from tests.waiting import WaitUntil

PARENT = """
from daemon.dev.embedded_postgres import EmbeddedPostgres
from daemon.dev.embedded_redis import EmbeddedRedis
import signal
servers = EmbeddedRedis(), EmbeddedPostgres()
for server in servers:
    server.start()
    print(server.pid, server.directory, flush=True)
signal.pause()
"""


class Shell(Embedded):
    """A server that is a line of shell; ready when it has made the file `ready`."""

    name = "shell"
    transient = ("busy",)
    start_timeout_s = 5
    stop_timeout_s = 0.3

    def __init__(self, script: str) -> None:
        super().__init__()
        self.script = script

    @property
    def url(self) -> str:
        return "shell:"

    def _command(self) -> Sequence[str]:
        return ["/bin/sh", "-c", self.script]

    def _ready(self) -> bool:
        return (self.directory / "ready").exists()


def gone(pid: int) -> bool:
    """Whether no process of that number runs (a zombie does not)."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def removed(directory: str) -> bool:
    return not Path(directory).exists()


@contextmanager
def starter(script: str, lines: int) -> Iterator[tuple[subprocess.Popen[str], list[list[str]]]]:
    """A process that starts servers, and what it has said of them."""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        yield parent, [parent.stdout.readline().split() for _ in range(lines)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_servers_end_with_the_process_that_started_them(number: signal.Signals, wait_until: WaitUntil) -> None:
    """However it ends, nothing of ours is left on the machine: no process and no file."""
    with starter(PARENT, 2) as (parent, rows):
        parent.send_signal(number)
    for pid, directory in rows:
        await wait_until(partial(gone, int(pid)), description=f"server {pid} is gone", within_s=15)
        await wait_until(partial(removed, directory), description=f"{directory} is gone", within_s=15)


async def test_paused_servers_end_with_their_starter_too(wait_until: WaitUntil) -> None:
    """A chaos test that dies between pause and resume leaves nothing behind, not even a connection's process."""
    paused = "for server in servers:\n    server.pause()\nprint('paused', flush=True)\nsignal.pause()"
    with starter(PARENT.replace("signal.pause()", paused), 3) as (parent, rows):
        pids = [pid for row in rows[:2] for pid in (int(row[0]), *children(int(row[0])))]
        parent.kill()
    for pid in pids:
        await wait_until(partial(gone, pid), description=f"process {pid} is gone", within_s=20)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server() -> None:
    """A session of its own: the terminal's signals go to us, and we drain before the server goes."""
    with EmbeddedRedis(persist=False) as server:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_nothing_of_our_environment_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of a provider, no variable that changes how a server behaves."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("PGDATA", "/elsewhere")
    with Shell("env > seen; touch ready; exec sleep 60") as server:
        seen = (server.directory / "seen").read_text()
    assert "OPENAI_API_KEY" not in seen
    assert "PGDATA" not in seen


def test_its_directory_is_ours_alone_and_goes_with_it() -> None:
    """0700 while it runs, gone after `close`."""
    with Shell("touch ready; exec sleep 60") as server:
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert not server.directory.exists()


def test_a_server_that_does_not_start_says_why() -> None:
    """The error ends with the server's own last words, and nothing is left."""
    server = Shell("echo no more room >&2; exit 3")
    with pytest.raises(EmbeddedError, match=r"shell did not start:\nno more room"), server:
        pass
    assert not server.directory.exists()


def test_a_passing_hindrance_is_waited_out() -> None:
    """A port or a lock that is free a moment later is no failure."""
    with Shell("[ -e second ] && { touch ready; exec sleep 60; }; touch second; echo busy; exit 1") as server:
        assert server.running


def test_a_start_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded even where the server neither answers nor ends."""
    monkeypatch.setattr(Shell, "start_timeout_s", 0.2)
    with pytest.raises(EmbeddedError, match="did not start"), Shell("exec sleep 60"):
        pass


def test_a_server_that_ignores_its_stop_signal_is_killed() -> None:
    """`stop` ends within its limit."""
    with Shell("trap '' TERM; touch ready; while :; do sleep 0.05; done") as server:
        pid, begun = server.pid, time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 3
        assert gone(pid)


async def test_a_kill_takes_the_children_too(wait_until: WaitUntil) -> None:
    """As when the machine loses power."""
    with Shell("sleep 60 & : > ready; wait") as server:
        [child] = children(server.pid)
        server.kill()
        await wait_until(partial(gone, child), description="the child is gone")


def test_every_call_may_be_repeated() -> None:
    """Stop, kill, pause, resume and close of what does not run do nothing."""
    server = Shell("touch ready; exec sleep 60")
    for _ in range(2):
        server.stop()
        server.kill()
        server.pause()
        server.resume()
    with pytest.raises(EmbeddedError, match="does not run"):
        assert server.pid
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.close()
    server.close()


def test_a_server_that_died_by_itself_can_be_started_again() -> None:
    """What a supervisor would see, too."""
    with Shell("touch ready; exec sleep 60") as server:
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        server.start()
        assert server.running


def test_children_are_found_without_proc() -> None:
    """There is no /proc on macOS."""
    if not Path("/bin/ps").exists():
        pytest.skip("ps is not installed")
    with Shell("sleep 60 & touch ready; wait") as server:
        assert children(server.pid, proc=Path("/nowhere")) == children(server.pid)


def test_a_deep_temp_directory_leaves_room_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unix socket's path may have 103 bytes on macOS, and its $TMPDIR takes half of them."""
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    directory = private_directory("qstreamd-test-")
    try:
        assert len(str(directory)) < 80
        assert list(deep.iterdir()) == []
    finally:
        directory.rmdir()
