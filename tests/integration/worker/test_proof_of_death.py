"""Proofs of death by real processes of this machine: stopped, killed, of another user, in another namespace, hidden."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from daemon.worker.proof_of_death import ProcessFacts, is_dead, own_facts, sighting_of, start_time_in

ROOT: Final = Path(__file__).resolve().parents[3]
SLEEP: Final = "import time; time.sleep(60)"
#: prints the facts of a process, and whether that process proves the one in its first argument dead
JUDGE: Final = """
import os, sys
from daemon.worker.proof_of_death import ProcessFacts, is_dead, own_facts, sighting_of
if len(sys.argv) > 2:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))  # root's group may see what is hidden
    os.setuid(int(sys.argv[2]))
print(own_facts().record(), is_dead(ProcessFacts.of(sys.argv[1]), own_facts(), sighting_of))
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as process:
        yield process
        process.kill()


def facts_of(pid: int) -> ProcessFacts:
    """As that process would write them itself."""
    stat = Path(f"/proc/{pid}/stat").read_text("ascii")
    return replace(own_facts(), pid=str(pid), start_time=start_time_in(stat))


def judged(facts: ProcessFacts, *around: str, uid: str = "") -> tuple[ProcessFacts, bool]:
    """The facts of another process, which `around` starts, and whether it proves the one with these facts dead."""
    command = [*around, sys.executable, "-c", JUDGE, facts.record(), *([uid] if uid else [])]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout.split()
    return ProcessFacts.of(said[0]), said[1] == "True"


def namespaced(*more: str) -> list[str]:
    """`unshare`, as root of a user namespace where we are not root."""
    return ["unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), *more]


def test_a_process_that_lives_stops_and_dies(sleeper: subprocess.Popen[bytes]) -> None:
    """SIGSTOP proves nothing; SIGKILL does; so does another process with its pid."""
    facts = facts_of(sleeper.pid)
    assert all((facts.boot_id, facts.namespace, facts.pid, facts.start_time))
    assert not is_dead(facts, own_facts(), sighting_of)
    sleeper.send_signal(signal.SIGSTOP)
    assert not is_dead(facts, own_facts(), sighting_of)
    assert is_dead(replace(facts, start_time="1"), own_facts(), sighting_of)
    sleeper.kill()
    sleeper.wait()
    assert is_dead(facts, own_facts(), sighting_of)


def test_two_pid_namespaces_on_one_host(sleeper: subprocess.Popen[bytes]) -> None:
    """Both have a pid 1; a pid of ours that does not exist there proves nothing."""
    contained = namespaced("--pid", "--fork", "--mount-proc")
    first, _ = judged(ProcessFacts(), *contained)
    second, proved = judged(first, *contained)
    assert (first.pid, second.pid) == ("1", "1")
    assert first.boot_id == second.boot_id == own_facts().boot_id
    assert not proved
    assert judged(facts_of(sleeper.pid), *contained)[1] is False
    assert not is_dead(first, own_facts(), sighting_of)


def test_a_pid_namespace_that_sees_the_proc_of_its_host(sleeper: subprocess.Popen[bytes]) -> None:
    """Its `/proc` shows other pids than its own: it knows nothing of itself, and proves nothing."""
    facts, proved = judged(facts_of(sleeper.pid), *namespaced("--pid", "--fork"))
    assert (facts, proved) == (ProcessFacts(), False)


def test_another_user(sleeper: subprocess.Popen[bytes]) -> None:
    """A daemon may run as another user: EPERM proves nothing, a pid that is gone or another process' does."""
    theirs, here = (facts_of(sleeper.pid), "65534") if os.geteuid() == 0 else (facts_of(1), "")
    facts, proved = judged(theirs, uid=here)
    assert all((facts.boot_id, facts.namespace, facts.pid, facts.start_time))
    assert not proved
    assert judged(replace(theirs, start_time="1"), uid=here)[1]
    sleeper.kill()
    sleeper.wait()
    assert judged(replace(theirs, pid=str(sleeper.pid)), uid=here)[1]


#: a `/proc` that hides the processes of other users, as systemd's DynamicUser with ProtectProc=invisible has it
HIDDEN: Final = ("--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh")


def test_a_process_that_can_not_see_the_others(sleeper: subprocess.Popen[bytes]) -> None:
    """Without their start times only a pid that is gone is a proof."""
    around, here = (namespaced(*HIDDEN), "65534") if os.geteuid() == 0 else ((), "")
    theirs = facts_of(sleeper.pid) if here else facts_of(1)
    facts, proved = judged(theirs, *around, uid=here)
    assert all((facts.boot_id, facts.namespace, facts.pid, facts.start_time))
    assert not proved
    if here:
        assert judged(replace(theirs, start_time="1"), *around, uid=here)[1] is False
    sleeper.kill()
    sleeper.wait()
    assert judged(replace(theirs, pid=str(sleeper.pid)), *around, uid=here)[1]
