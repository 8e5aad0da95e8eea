"""What proves that another process has died, and what does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.worker.proof_of_death import (
    ProcessFacts,
    ProofsOfDeath,
    Sighting,
    is_dead,
    own_facts,
    sighting_of,
    start_time_in,
)

OURS = ProcessFacts("boot-1", "4026531836.4026531834", "4242", "1000")
THEIRS = replace(OURS, pid="77", start_time="500")
GONE = Sighting(gone=True)


def seeing(sighting: Sighting) -> Callable[[int], Sighting]:
    return lambda _: sighting


def never(_: int) -> Sighting:
    raise AssertionError("asked for a process whose number means nothing here")


def test_a_pid_that_does_not_exist_is_dead() -> None:
    assert is_dead(THEIRS, OURS, seeing(GONE))


def test_a_pid_with_another_start_time_is_another_process() -> None:
    """The number was given to another process, which can only be when the first one is gone."""
    assert is_dead(THEIRS, OURS, seeing(Sighting(gone=False, start_time="501")))


def test_the_same_start_time_proves_nothing() -> None:
    """It lives, or it is stopped."""
    assert not is_dead(THEIRS, OURS, seeing(Sighting(gone=False, start_time="500")))


def test_what_can_not_be_read_proves_nothing() -> None:
    """EPERM and `/proc` of another user hidden."""
    assert not is_dead(THEIRS, OURS, seeing(Sighting(gone=False)))


@pytest.mark.parametrize(
    "other", [replace(THEIRS, boot_id="boot-2"), replace(THEIRS, namespace="4026532200.4026531834")]
)
def test_another_boot_or_namespace_proves_nothing(other: ProcessFacts) -> None:
    """Pid 1 of another container, a pid of before a restart of the host, another host."""
    assert not is_dead(other, OURS, never)


@pytest.mark.parametrize("name", ["boot_id", "namespace", "pid", "start_time"])
def test_a_missing_field_proves_nothing_on_either_side(name: str) -> None:
    """Two that do not know where they run are not at the same place."""
    assert not is_dead(replace(THEIRS, **{name: ""}), OURS, never)
    if name != "start_time":
        assert not is_dead(THEIRS, replace(OURS, **{name: ""}), never)
        assert not is_dead(replace(THEIRS, **{name: ""}), replace(OURS, **{name: ""}), never)


@pytest.mark.parametrize("pid", ["0", "-1", "x", "²", " 7"])
def test_a_pid_that_is_none_proves_nothing(pid: str) -> None:
    """`kill(0)` and `kill(-1)` would speak to whole groups."""
    assert not is_dead(replace(THEIRS, pid=pid), OURS, never)


@pytest.mark.parametrize("record", ["", "|||", "a|b|c", "a|b|c|d|e"])
def test_a_record_of_another_form_proves_nothing(record: str) -> None:
    assert not is_dead(ProcessFacts.of(record), OURS, never)


def test_facts_are_read_back() -> None:
    assert ProcessFacts.of(THEIRS.record()) == THEIRS


@pytest.mark.parametrize(
    ("stat", "start"),
    [
        (f"7 (python) S {' '.join(str(n) for n in range(4, 53))}", "22"),
        (f"7 (a) R 1 (b)) S {' '.join(str(n) for n in range(4, 53))}", "22"),
        ("7 (python) S 1 2 3", ""),
        ("", ""),
    ],
)
def test_the_start_time_is_found_behind_any_name(stat: str, start: str) -> None:
    assert start_time_in(stat) == start


# --- the operating system ---------------------------------------------------------------------------------------------


def test_permission_denied_means_that_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another user's process whose `/proc` is hidden, as with ProtectProc=invisible."""

    def denied(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    assert sighting_of(1, tmp_path) == Sighting(gone=False, start_time="")


def test_nothing_is_known_where_proc_shows_other_pids(tmp_path: Path) -> None:
    """A pid namespace without a `/proc` of its own, and a host without `/proc`."""
    assert own_facts(tmp_path) == ProcessFacts()
    (tmp_path / "self").symlink_to(str(os.getpid() + 1))
    assert own_facts(tmp_path) == ProcessFacts()


def test_what_can_not_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to(str(os.getpid()))
    assert own_facts(tmp_path) == ProcessFacts(pid=str(os.getpid()))


def test_an_owner_is_proved_dead_once_and_never_ourselves() -> None:
    proofs = ProofsOfDeath("us", OURS, seeing(GONE))
    assert proofs.record == OURS.record()
    records = {"us": OURS.record(), "them": THEIRS.record(), "old": ""}
    assert proofs.look(records) == {"them"}
    assert proofs.look(records) == set()
    dead = proofs.dead
    assert dead == {"them"}
    assert proofs.look({"us": OURS.record()}) == set()
    assert dead is proofs.dead == set()  # nothing of it is pending any more; the claims read this very set
