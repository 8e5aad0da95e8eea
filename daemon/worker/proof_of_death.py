"""Whether another process of this host has died, by facts of the operating system (docs/decisions/0009-ownership.md).

Each process writes its facts beside its liveness. Death is proved only inside one boot and the same namespaces; what
cannot be read proves nothing, and the lease decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_START_TIME: Final = 22 - 3  #: field 22 of `stat`, counted from the state, which is field 3


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What one process start is known by; a field that could not be read is empty."""

    boot_id: str = ""
    namespace: str = ""  #: of process ids and of time: numbers of another one mean nothing here
    pid: str = ""
    start_time: str = ""  #: ticks since boot: tells two processes with one pid apart

    def record(self) -> str:
        """As it lies in Redis."""
        return f"{self.boot_id}|{self.namespace}|{self.pid}|{self.start_time}"

    @classmethod
    def of(cls, record: str) -> ProcessFacts:
        """Read back; a record of another form has no facts."""
        fields = record.split("|")
        return cls(*fields) if len(fields) == 4 else cls()


@dataclass(frozen=True, slots=True)
class Sighting:
    """What this process sees of a pid."""

    gone: bool  #: `kill(pid, 0)` says that there is no such process
    start_time: str = ""  #: empty: could not be read


def own_facts(proc: Path = _PROC) -> ProcessFacts:
    """The facts of this process. None of them where `/proc` shows other process ids than ours."""
    pid = str(os.getpid())
    try:
        if str((proc / "self").readlink()) != pid:
            return ProcessFacts()
    except OSError:
        return ProcessFacts()
    return ProcessFacts(
        boot_id=_read(proc / "sys/kernel/random/boot_id"),
        namespace=_namespace(proc),
        pid=pid,
        start_time=start_time_in(_read(proc / "self/stat")),
    )


def sighting_of(pid: int, proc: Path = _PROC) -> Sighting:
    """Look for a pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Sighting(gone=True)
    except OSError:
        pass  # EPERM: there is one, of another user; anything else says nothing
    return Sighting(gone=False, start_time=start_time_in(_read(proc / str(pid) / "stat")))


def start_time_in(stat: str) -> str:
    """The start time in `/proc/{pid}/stat`; empty when it is not there. A process may be named `a) R 1`."""
    fields = stat.rpartition(")")[2].split()
    return fields[_START_TIME] if len(fields) > _START_TIME and fields[_START_TIME].isdecimal() else ""


def is_dead(theirs: ProcessFacts, ours: ProcessFacts, look: Callable[[int], Sighting]) -> bool:
    """Whether the process with these facts is proved dead. Asks `look` only where its answer would mean something."""
    here = (theirs.boot_id, theirs.namespace) == (ours.boot_id, ours.namespace)
    complete = all((theirs.boot_id, theirs.namespace, theirs.start_time)) and bool(ours.pid)
    if not here or not complete or not (theirs.pid.isascii() and theirs.pid.isdecimal()) or int(theirs.pid) < 1:
        return False
    seen = look(int(theirs.pid))
    return seen.gone or seen.start_time not in {"", theirs.start_time}


class ProofsOfDeath:
    """The owners that this process has proved dead; an owner is one process start, so it stays dead."""

    def __init__(self, owner: str, facts: ProcessFacts, look: Callable[[int], Sighting] = sighting_of) -> None:
        self.owner = owner
        self.record = facts.record()
        self.dead: set[str] = set()  #: one set for the life of this process
        self._facts = facts
        self._look = look

    def look(self, records: Mapping[str, str]) -> set[str]:
        """Judge every owner that has a record; those newly proved dead. One whose record is gone is dropped."""
        self.dead.intersection_update(records)
        asked = records.keys() - self.dead - {self.owner}
        found = {owner for owner in asked if is_dead(ProcessFacts.of(records[owner]), self._facts, self._look)}
        self.dead |= found
        return found


def _namespace(proc: Path) -> str:
    try:
        pids = (proc / "self/ns/pid").stat().st_ino
    except OSError:
        return ""
    try:
        return f"{pids}.{(proc / 'self/ns/time').stat().st_ino}"
    except OSError:
        return f"{pids}.0"  # a kernel before 5.6 has one time for all


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return ""
