"""A queue in memory: what the scripts should make of it, in a few plain lines each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

NOBODY, GHOST = "", "nobody ever"  #: not read yet; read by a consumer that was deleted with what was pending to it


@dataclass
class Entry:
    """One entry of a work stream. `id` is known once it was seen there."""

    task: str
    id: str = ""
    owner: str = NOBODY
    lapsed: bool = False  #: its owner's lease ran out
    gone: bool = False  #: its content was deleted while it was pending


@dataclass
class QueueModel:
    """Both streams, the delayed, the counted, and who was seen before."""

    size: int
    ready: list[Entry] = field(default_factory=list)
    tasks: list[Entry] = field(default_factory=list)
    delayed: dict[str, bool] = field(default_factory=dict)  #: task -> whether it is due
    held: set[str] = field(default_factory=set)
    waiting: dict[str, bool] = field(default_factory=dict)  #: task -> whether it is older than a promise may be
    counter: int = 0
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)  #: task -> entry id, body
    promised: dict[str, str] = field(default_factory=dict)
    woken: set[str] = field(default_factory=set)
    restored: set[str] = field(default_factory=set)
    surplus: tuple[int, bool] | None = None  #: the least seen, and whether for a whole promise time
    letters: int = 0
    paused: bool = False

    # --- who is where ---------------------------------------------------------------------------------------------

    def stream(self, name: str) -> list[Entry]:
        """`ready` or `tasks`."""
        return self.ready if name == "ready" else self.tasks

    def entries(self) -> list[Entry]:
        """Of both streams."""
        return [*self.ready, *self.tasks]

    def known(self) -> set[str]:
        """Tasks that somebody will be handed, has, or will be freed."""
        return {e.task for e in self.entries() if not e.gone} | set(self.delayed)

    def mine(self, stream: str, entry_id: str, consumer: str) -> Entry | None:
        """The entry, if it is pending to that consumer."""
        return next((e for e in self.stream(stream) if e.id == entry_id and e.owner == consumer), None)

    def pending(self, consumer: str) -> list[Entry]:
        """All that is pending to a consumer."""
        return [e for e in self.entries() if e.owner == consumer]

    def remove(self, entry: Entry) -> None:
        """It leaves its stream and the list of the pending."""
        for stream in (self.ready, self.tasks):
            stream[:] = [e for e in stream if e is not entry]

    def to_ready(self, task: str) -> None:
        """Appended to `:ready`."""
        self.ready.append(Entry(task))

    # --- the door -------------------------------------------------------------------------------------------------

    def give_place_back(self, task: str) -> None:
        """Once: only who is in the set has a place."""
        if self.waiting.pop(task, None) is not None:
            self.counter = max(0, self.counter - 1)

    def full(self) -> bool:
        """Whether no place is left."""
        return max(self.counter, len(self.waiting)) >= self.size

    def accept(self, task: str, body: str, *, counted: bool) -> str:
        """What the door says; the entry is appended."""
        if task in self.seen:
            return "duplicate" if self.seen[task][1] == body else "conflict"
        if task not in self.waiting and not counted and self.full():
            return "full"
        self.tasks.append(Entry(task))
        self.seen[task] = "", body
        if task not in self.waiting:
            self.waiting[task] = False
            self.counter += not counted
        return "queued"

    def reserve(self, task: str, body: str, *, delayed: bool) -> str:
        """What a producer is told."""
        if task in self.seen:
            return "duplicate" if self.seen[task][1] == body else "conflict"
        if self.promised.get(task, body) != body:
            return "conflict"
        if not delayed and task not in self.waiting:
            broken = self._broken_promises() if self.full() else []
            if max(self.counter, len(self.waiting)) - len(broken) >= self.size:
                return "full"
            for other in broken:
                del self.waiting[other]
            self.counter = max(0, self.counter - len(broken)) + 1
            self.waiting[task] = False
        self.promised[task] = body
        return "reserved"

    def cancel_reservation(self, task: str) -> bool:
        """Whether the message never came."""
        if task in self.seen:
            return False
        self.give_place_back(task)
        self.promised.pop(task, None)
        return True

    def expire(self) -> int:
        """How many promises were not kept in time."""
        broken = self._broken_promises()
        for task in broken:
            self.give_place_back(task)
        return len(broken)

    def reconcile(self) -> tuple[int, int, int]:
        """Raised, lowered, promises given up."""
        old, raised, lowered = any(self.waiting.values()), 0, 0
        over = self.counter - len(self.waiting)
        if over < 0:
            raised, self.counter, self.surplus = -over, len(self.waiting), None
        elif over == 0:
            self.surplus = None
        elif self.surplus is None:
            self.surplus = over, False
        elif self.surplus[1]:
            lowered = min(over, self.surplus[0])
            self.counter, self.surplus = self.counter - lowered, None
        else:
            self.surplus = min(over, self.surplus[0]), False
        return raised, lowered, self.expire() if old else 0

    def withdraw(self, task: str) -> bool:
        """Whether a task that has ended before it ran could be taken out."""
        taken = self.delayed.pop(task, None) is not None
        self.held.discard(task)
        if task not in self.seen:
            self.seen[task] = "0-0", self.promised.get(task, "")
            taken = True
        elif not taken:
            entry = next((e for e in self.tasks if e.id == self.seen[task][0] and not e.gone), None)
            taken = entry is not None and entry.owner in {NOBODY, GHOST}
            if taken and entry is not None:
                self.remove(entry)
        if taken:
            self.give_place_back(task)
        return taken

    def _broken_promises(self) -> list[str]:
        return [task for task, old in self.waiting.items() if old and task not in self.seen]

    # --- work -----------------------------------------------------------------------------------------------------

    def fetch(self, consumer: str, count: int) -> list[Entry]:
        """New entries, those of `:ready` first."""
        new = [e for e in self.entries() if e.owner == NOBODY][:count]
        for entry in new:
            entry.owner = consumer
        return new

    def sweep(self, consumer: str) -> tuple[list[str], list[str]]:
        """Ids taken over, and ids whose content is gone."""
        taken, gone = [], []
        for entry in self.entries():
            if entry.owner in {NOBODY, GHOST}:
                continue
            if entry.gone:
                gone.append(entry.id)
                self.remove(entry)
            elif entry.lapsed:
                entry.owner, entry.lapsed = consumer, False
                taken.append(entry.id)
        return taken, gone

    def take_over(self, consumer: str, dead: str, count: int) -> tuple[list[str], list[str]]:
        """The same of one consumer that is proved dead, whatever is left of its leases."""
        taken: list[str] = []
        gone = []
        for stream in ("ready", "tasks"):
            left = count - len(taken)
            for entry in [e for e in self.stream(stream) if e.owner == dead][:left]:
                if entry.gone:
                    gone.append(entry.id)
                    self.remove(entry)
                else:
                    entry.owner, entry.lapsed = consumer, False
                    taken.append(entry.id)
        return taken, gone

    def beat(self, stream: str, ids: Iterable[str], consumer: str) -> tuple[list[str], list[str]]:
        """Ids that another consumer has, and ids that nobody has."""
        taken, vanished = [], []
        pending = {e.id: e for e in self.stream(stream) if e.owner not in {NOBODY, GHOST}}
        for entry_id in ids:
            entry = pending.get(entry_id)
            if entry is None:
                vanished.append(entry_id)
            elif entry.owner != consumer:
                taken.append(entry_id)
            elif entry.gone:
                self.remove(entry)  # Redis drops it from the pending list when it is claimed
            else:
                entry.lapsed = False
        return taken, vanished

    def promote(self) -> tuple[int, set[str]]:
        """How many moved, and ids without a message."""
        due = {task for task, now in self.delayed.items() if now}
        lost = due - self.held
        for task in sorted(due):
            self.move_delayed(task)
            self.delayed.pop(task, None)
        return len(due - lost), lost

    def move_delayed(self, task: str) -> bool:
        """A parked task goes to `:ready`, if it has its message."""
        if task not in self.delayed or task not in self.held:
            return False
        del self.delayed[task]
        self.held.remove(task)
        self.to_ready(task)
        return True
