"""Every script of a queue in any order, held against a model in memory after each step (Hypothesis, rule based).

Time is moved by the rules, never waited for: leases lapse, promises grow old and tasks come due when a rule says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from redis.asyncio import Redis

from daemon.config import EventSettings, QueueSettings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.events.cancel_notices import CancelRequests
from daemon.limiter.scripts import wake
from daemon.ports import Delivery
from daemon.queues.admission import Admission
from daemon.queues.drift import Drift, Repairs
from daemon.queues.reservations import Reservations
from daemon.queues.scripts import hasten, purge
from daemon.queues.streams import QueuePaused
from daemon.redis_client import keys
from daemon.redis_client.scripts import Call, Scripts
from tests.integration.lua.queue_model import GHOST, NOBODY, Entry, QueueModel
from tests.integration.redis_side import QUEUE, Side

T = TypeVar("T")
NAMES = keys.queue_keys(QUEUE)
SIZE = 5
IDS = [f"t{n}" for n in range(8)]
LEASE_MS = 300_000  #: longer than any run; entries lapse when a rule says so
LONG_MS = 600_000

tasks = st.sampled_from(IDS)
bodies = st.sampled_from(["a" * 64] * 4 + ["b" * 64])
consumers = st.sampled_from(["a", "b"])
picks = st.integers(0, 7)
rarely = st.sampled_from([False] * 5 + [True])
again = st.booleans()  #: the reply is lost and the call repeated


class QueueMachine(RuleBasedStateMachine):
    """One queue, two consumers, eight tasks."""

    runner: asyncio.Runner
    client: Redis

    def __init__(self) -> None:
        super().__init__()
        self.do(self.client.flushdb())
        self.sides = {name: Side(self.client, name) for name in ("a", "b")}
        scripts, settings, clock = Scripts(self.client), QueueSettings(), SystemClock()
        self.scripts = scripts
        self.reservations = Reservations(scripts, settings)
        self.admission, self.drift = Admission(scripts, settings, clock), Drift(scripts, settings, clock)
        self.cancels = CancelRequests(scripts, EventSettings(), settings)
        self.do(self.sides["a"].work.make_groups([QUEUE]))
        self.model = QueueModel(SIZE)
        self.given: list[tuple[str, Delivery]] = []  #: every delivery ever made: zombies use old ones

    def do(self, work: Awaitable[T]) -> T:
        """The answer of the server."""

        async def wrapped() -> T:
            return await work

        return self.runner.run(wrapped())

    def run_twice(self, call: Call, *, repeat: bool) -> Any:
        """The reply of a script, and of its repetition when the first one was lost."""
        reply = self.do(self.scripts.run([call]))[0]
        if repeat:
            self.do(self.scripts.run([call]))
        return reply

    @initialize(accepted=st.integers(2, SIZE), by_a=st.integers(1, 3), by_b=st.integers(0, 2), parked=st.booleans())
    def work_is_under_way(self, accepted: int, by_a: int, by_b: int, *, parked: bool) -> None:
        """What a run begins with, since Hypothesis leaves some rules out of each."""
        for task in IDS[:accepted]:
            self.accept(task, "a" * 64, dry_run=False, counted=False)
            self.redis_is_what_it_should_be()
        self.fetch("a", by_a)
        if by_b:
            self.fetch("b", by_b)
        if parked:
            self.park(by_a + by_b - 1, "a", due=False, wakeable=False, repeat=False)

    # --- the door -------------------------------------------------------------------------------------------------

    @rule(task=tasks, body=bodies, dry_run=rarely, counted=rarely)
    def accept(self, task: str, body: str, *, dry_run: bool, counted: bool) -> None:
        """The relay; a producer of old has counted the task already by a bare INCR."""
        if counted:
            self.do(self.client.incr(NAMES.counter))
            self.model.counter += 1
        message = TaskMessage(task_id=task, queue_id=QUEUE, service_id="s", user_id="u", variables={}, counted=counted)
        known = self.model.seen.get(task)
        verdict = self.do(self.admission.accept(message, body, SIZE, {}, dry_run=dry_run))
        if dry_run:
            return
        expected = self.model.accept(task, body, counted=counted)
        assert type(verdict).__name__.lower() == {"queued": "accepted"}.get(expected, expected)
        if known:
            assert getattr(verdict, "entry_id", "") == known[0]
        if expected == "queued":
            repeated = self.do(self.admission.accept(message, body, SIZE, {}))
            assert type(repeated).__name__ == "Duplicate" and repeated.entry_id == verdict.entry_id  # type: ignore[union-attr]
            self.model.seen[task] = verdict.entry_id, body  # type: ignore[union-attr]

    @rule(task=tasks, body=bodies, delayed=st.booleans(), repeat=again)
    def reserve(self, task: str, body: str, *, delayed: bool, repeat: bool) -> None:
        """The gateway takes a place before it publishes."""
        for _ in range(1 + repeat):
            told = self.do(self.reservations.reserve(QUEUE, task, body, SIZE, delay_s=60.0 if delayed else None))
            assert type(told).__name__.lower() == self.model.reserve(task, body, delayed=delayed)

    @rule(task=tasks, repeat=again)
    def cancel_reservation(self, task: str, *, repeat: bool) -> None:
        """The failure callback."""
        for _ in range(1 + repeat):
            assert self.do(self.reservations.cancel(QUEUE, task)) == self.model.cancel_reservation(task)

    @precondition(lambda self: self.model.waiting)
    @rule()
    def places_grow_old(self) -> None:
        """A quarter of an hour goes by: promises are broken, accepted work goes on waiting."""
        for task in self.model.waiting:
            self.model.waiting[task] = True
            self.do(self.client.zadd(NAMES.waiting, {task: 1}))

    @rule()
    def expire(self) -> None:
        """Promises that nobody kept."""
        assert self.do(self.reservations.expire(QUEUE)) == self.model.expire()

    @rule(by=st.sampled_from([-2, -1, 1, 2]))
    def drift_away(self, by: int) -> None:
        """Somebody else wrote the counter."""
        by = max(by, -self.model.counter)
        self.do(self.client.incrby(NAMES.counter, by))
        self.model.counter += by

    @rule(waited=st.booleans())
    def repair(self, *, waited: bool) -> None:
        """The counter is held against the set."""
        if waited and self.model.surplus is not None:
            self.do(self.client.hset(NAMES.drift, "since", "0"))
            self.model.surplus = self.model.surplus[0], True
        self.do(self.client.delete(keys.reconciling(QUEUE)))
        assert self.do(self.drift.repair(QUEUE, LONG_MS)) == Repairs(*self.model.reconcile())
        assert self.do(self.drift.repair(QUEUE, LONG_MS)) == Repairs()  # somebody has just looked

    @rule(task=tasks, repeat=again)
    def withdraw(self, task: str, *, repeat: bool) -> None:
        """A task was cancelled before it ran."""
        for _ in range(1 + repeat):
            assert self.do(self.cancels.withdraw(QUEUE, task)) == self.model.withdraw(task)

    @rule(task=tasks)
    def seven_days_later(self, task: str) -> None:
        """The id of a settled task is free again."""
        if task not in self.model.known() | set(self.model.waiting):
            self.model.seen.pop(task, None)
            self.do(self.client.delete(keys.dedup(QUEUE, task)))

    @rule(paused=st.booleans())
    def pause(self, *, paused: bool) -> None:
        """An operator."""
        self.model.paused = paused
        self.do(self.client.hset(NAMES.control, "paused", str(int(paused))))

    # --- work -----------------------------------------------------------------------------------------------------

    @rule(consumer=consumers, count=st.integers(1, 3))
    def fetch(self, consumer: str, count: int) -> None:
        """New work, `:ready` first, no more than there are slots."""
        try:
            found = self.do(self.sides[consumer].work.fetch(QUEUE, count))
        except QueuePaused:
            assert self.model.paused
            return
        assert not self.model.paused
        assert [d.id for d in found] == [e.id for e in self.model.fetch(consumer, count)]
        self.given += [(consumer, d) for d in found]

    def _ours(self, pick: int, consumer: str) -> tuple[Delivery, Entry | None]:
        """A delivery of now or then as that consumer sees it, and its entry if it is pending to him."""
        _, d = self.given[-1 - pick % len(self.given)]
        return d, self.model.mine(d.stream, d.id, consumer)

    @precondition(lambda self: self.given)
    @rule(pick=picks, consumer=consumers, repeat=again)
    def begin(self, pick: int, consumer: str, *, repeat: bool) -> None:
        """The place is given back, once."""
        d, entry = self._ours(pick, consumer)
        task = d.entry.message.task_id if d.entry else ""
        owned, _ = self.run_twice(self.sides[consumer].work.begin_call(d, task), repeat=repeat)
        assert bool(owned) == (entry is not None)
        if entry is not None:
            self.model.give_place_back(task)

    @precondition(lambda self: self.given)
    @rule(pick=picks, consumer=consumers, part=rarely, letter=again, repeat=again)
    def settle(self, pick: int, consumer: str, *, part: bool, letter: bool, repeat: bool) -> None:
        """Acked, or acked with a dead letter."""
        (d, entry), work = self._ours(pick, consumer), self.sides[consumer].work
        call = work.ack_call(d, whole_task=not part)
        if letter:
            call = work.dead_letter_call(d, code=Code.LLM_ERROR, reason="r", attempts=1, whole_task=not part)
        owned, _ = self.run_twice(call, repeat=repeat)
        assert bool(owned) == (entry is not None)
        if entry is not None:
            self.model.remove(entry)
            self.model.letters += letter
            if not part:
                self.model.give_place_back(entry.task)

    @precondition(lambda self: self.given)
    @rule(pick=picks, consumer=consumers, due=st.booleans(), wakeable=st.booleans(), repeat=again)
    def park(self, pick: int, consumer: str, *, due: bool, wakeable: bool, repeat: bool) -> None:
        """To run again, or until a place is free; at once if it was called on its way."""
        d, entry = self._ours(pick, consumer)
        if d.entry is None:
            return
        task, raw, due_ms = d.entry.message.task_id, msgspec.json.encode(d.entry), 0 if due else LONG_MS
        call = self.sides[consumer].work.snooze_call(d, task, raw, due_ms, wakeable=wakeable)
        owned, _, due_in = self.run_twice(call, repeat=repeat)
        assert bool(owned) == (entry is not None)
        if entry is not None:
            task, model = entry.task, self.model
            called = wakeable and task in model.woken
            assert due_in == (0 if due or called else LONG_MS)
            model.remove(entry)
            model.delayed[task] = due or called
            model.held.add(task)
            if wakeable:
                model.woken.discard(task)

    @precondition(lambda self: self.given)
    @rule(pick=picks, consumer=consumers, repeat=again)
    def requeue(self, pick: int, consumer: str, *, repeat: bool) -> None:
        """To whoever reads next."""
        d, entry = self._ours(pick, consumer)
        moved = self.run_twice(self.sides[consumer].work.requeue_call(d), repeat=repeat)
        assert bool(moved) == (entry is not None)
        if entry is not None:
            self.model.remove(entry)
            if not entry.gone:
                self.model.to_ready(entry.task)

    @rule()
    def promote(self) -> None:
        """What is due goes to `:ready`; an id without a message is told."""
        moved, _, lost = self.do(self.sides["a"].work.promote(QUEUE, 100))
        assert (moved, set(lost)) == self.model.promote()

    @precondition(lambda self: self.model.delayed)
    @rule()
    def all_come_due(self) -> None:
        """Time passes for the parked."""
        for task in self.model.delayed:
            self.do(self.client.zadd(NAMES.retry, {task: 1}))
            self.model.delayed[task] = True

    @rule(task=tasks)
    def wake(self, task: str) -> None:
        """A place was kept for it."""
        where = {"retry": NAMES.retry, "held": NAMES.held, "ready": NAMES.ready, "woken_mark": keys.woken(QUEUE, task)}
        moved = self.do(self.scripts.one(wake(**where, task_id=task, mark_ms=LONG_MS)))
        assert bool(moved) == self.model.move_delayed(task)
        if not moved:
            self.model.woken.add(task)

    @rule(task=tasks, repeat=again)
    def hasten(self, task: str, *, repeat: bool) -> None:
        """An operator does not want to wait."""
        known = -1 if task in self.model.delayed and task not in self.model.held else 0
        call = hasten(retry=NAMES.retry, held=NAMES.held, ready=NAMES.ready, task_id=task)
        assert self.run_twice(call, repeat=repeat) == (1 if self.model.move_delayed(task) else known)

    @rule(pick=picks, parked=st.booleans(), repeat=again)
    def purge(self, pick: int, *, parked: bool, repeat: bool) -> None:
        """An operator empties the queue: what ended is taken out wherever it waits."""
        model, entries = self.model, self.model.entries()
        if parked:
            task, stream, entry_id = IDS[pick % len(IDS)], NAMES.tasks, ""
            taken = model.delayed.pop(task, None) is not None
            model.held.discard(task)
        elif entries:
            entry = entries[pick % len(entries)]
            task, entry_id = entry.task, entry.id
            stream = NAMES.ready if entry in model.ready else NAMES.tasks
            taken = entry.owner in {NOBODY, GHOST}
            if taken:
                model.remove(entry)
        else:
            return
        call = purge(
            stream=stream, retry=NAMES.retry, held=NAMES.held, waiting=NAMES.waiting, counter=NAMES.counter, blobs=(),
            entry_id=entry_id, task_id=task,
        )  # fmt: skip
        assert self.run_twice(call, repeat=repeat)[0] == taken
        if taken:
            model.give_place_back(task)

    # --- leases and incidents -------------------------------------------------------------------------------------

    @rule(consumer=consumers)
    def lease_runs_out(self, consumer: str) -> None:
        """A consumer was not heard of for a lease."""
        for name, stream in (("ready", NAMES.ready), ("tasks", NAMES.tasks)):
            for entry in [e for e in self.model.stream(name) if e.owner == consumer and not e.gone]:
                self.do(self.client.xclaim(stream, keys.GROUP, consumer, 0, [entry.id], idle=LONG_MS, justid=True))
                entry.lapsed = True

    @rule(consumer=consumers, whose=consumers)
    def beat(self, consumer: str, whose: str) -> None:
        """Of all that a consumer ever got, or a zombie's for what is another's now."""
        for stream in ("ready", "tasks"):
            ids = list(dict.fromkeys(d.id for name, d in self.given if name == whose and d.stream == stream))
            if ids:
                call = self.sides[consumer].work.renew_call(QUEUE, stream, ids)
                taken, vanished = self.do(self.scripts.run([call]))[0]
                found = [i.decode() for i in taken], [i.decode() for i in vanished]
                assert found == self.model.beat(stream, ids, consumer)

    @rule(consumer=consumers, busy=st.booleans())
    def sweep(self, consumer: str, *, busy: bool) -> None:
        """Entries whose lease ran out are taken over, by one process at a time."""
        self.do(self.client.delete(NAMES.reclaim_mark))
        if busy:
            self.do(self.client.set(NAMES.reclaim_mark, "somebody else"))
        swept = self.do(self.sides[consumer].work.reclaim(QUEUE, LEASE_MS, 100, ("0-0", "0-0"), LONG_MS))
        assert swept.elsewhere == busy
        if busy:
            assert swept.deliveries == []
            return
        taken, gone = self.model.sweep(consumer)
        assert [d.id for d in swept.deliveries] == taken
        assert [entry_id.partition("/")[2] for entry_id in swept.deleted] == gone
        self.given += [(consumer, d) for d in swept.deliveries]

    @rule(consumer=consumers, dead=consumers, count=st.integers(1, 4))
    def take_over(self, consumer: str, dead: str, count: int) -> None:
        """A process is proved dead: what it has, and nothing else, is taken over at once."""
        if consumer == dead:
            return
        swept = self.do(self.sides[consumer].work.take_over(QUEUE, [dead], count))
        taken, gone = self.model.take_over(consumer, dead, count)
        assert [d.id for d in swept.deliveries] == taken
        assert [entry_id.partition("/")[2] for entry_id in swept.deleted] == gone
        self.given += [(consumer, d) for d in swept.deliveries]

    @rule(consumer=consumers)
    def own_pending(self, consumer: str) -> None:
        """After a read error: what was delivered and may never have been seen."""
        found = self.do(self.sides[consumer].work.own_pending(QUEUE))
        mine = self.model.pending(consumer)
        assert [d.id for d in found] == [e.id for e in mine]
        for entry in mine:
            entry.lapsed = False
        self.given += [(consumer, d) for d in found if d.entry is not None]

    @rule(consumer=consumers)
    def bury(self, consumer: str) -> None:
        """A dead consumer goes only when nothing is pending to it."""
        assert self.do(self.sides["a"].work.delete_consumer(QUEUE, consumer)) == (not self.model.pending(consumer))

    @rule(consumer=consumers)
    def consumer_is_deleted(self, consumer: str) -> None:
        """Somebody's XGROUP DELCONSUMER: what was pending to it is handed to nobody any more."""
        for stream in (NAMES.ready, NAMES.tasks):
            self.do(self.client.xgroup_delconsumer(stream, keys.GROUP, consumer))
        for entry in self.model.pending(consumer):
            entry.owner = GHOST
            if entry.gone:
                self.model.remove(entry)

    @precondition(lambda self: any(e.owner == GHOST for e in self.model.entries()))
    @rule()
    def free_ghosts(self) -> None:
        """They go to the end of `:ready`."""
        ghosts = [e for e in self.model.entries() if e.owner == GHOST]
        assert self.do(self.sides["a"].work.rescue_stranded(QUEUE)) == len(ghosts)
        for entry in ghosts:
            self.model.remove(entry)
            self.model.to_ready(entry.task)

    @rule(pick=picks)
    def content_is_deleted(self, pick: int) -> None:
        """Somebody's XDEL or XTRIM takes a pending entry's content."""
        pending = [e for e in self.model.entries() if e.owner not in {NOBODY, GHOST} and not e.gone]
        if pending:
            entry = pending[pick % len(pending)]
            self.do(self.client.xdel(NAMES.ready if entry in self.model.ready else NAMES.tasks, entry.id))
            entry.gone = True

    @precondition(lambda self: self.model.held)
    @rule(task=tasks)
    def message_is_lost(self, task: str) -> None:
        """A parked task without its message."""
        self.do(self.client.hdel(NAMES.held, task))
        self.model.held.discard(task)

    @rule(task=tasks, marked=st.booleans(), repeat=again)
    def restore(self, task: str, *, marked: bool, repeat: bool) -> None:
        """The sweeper compares with Postgres and puts back what Redis has forgotten, once."""
        assert self.do(self.sides["a"].work.still_queued(QUEUE, set(IDS))) == self.model.known()
        if task in self.model.known() or task not in self.model.seen:
            return
        if not marked:
            self.model.restored.discard(task)
            self.do(self.client.delete(keys.restored(QUEUE, task)))
        message = TaskMessage(task_id=task, queue_id=QUEUE, service_id="s", user_id="u", variables={})
        entry = WorkEntry(message=message, sha256="a" * 64, accepted_at=1)
        for _ in range(1 + repeat):
            expected = task not in self.model.restored and task not in self.model.delayed
            assert self.do(self.sides["a"].work.restore(QUEUE, entry, LONG_MS)) == expected
            if expected:
                self.model.restored.add(task)
                self.model.to_ready(task)

    # --- what holds after every step ------------------------------------------------------------------------------

    @invariant()
    def redis_is_what_it_should_be(self) -> None:
        """Every key of the queue, and every task in one place only."""
        pipe = self.client.pipeline(transaction=False)
        for stream in (NAMES.ready, NAMES.tasks):
            pipe.xrange(stream)
            pipe.xpending_range(stream, keys.GROUP, "-", "+", 1000)
        pipe.zrange(NAMES.retry, 0, -1)
        pipe.hkeys(NAMES.held)
        pipe.zrange(NAMES.waiting, 0, -1)
        pipe.get(NAMES.counter)
        pipe.xlen(NAMES.dead)
        ready, ready_pending, tasks_, tasks_pending, retry, held, waiting, counter, dead = self.do(pipe.execute())
        for mine, entries, pending in (
            (self.model.ready, ready, ready_pending),
            (self.model.tasks, tasks_, tasks_pending),
        ):
            self._same_stream(mine, entries, pending)
        assert {task.decode() for task in retry} == set(self.model.delayed)
        assert {task.decode() for task in held} == self.model.held
        assert {task.decode() for task in waiting} == set(self.model.waiting)
        assert int(counter or 0) == self.model.counter >= 0
        assert dead == self.model.letters
        places = [e.task for e in self.model.entries() if not e.gone] + list(self.model.delayed)
        assert len(places) == len(set(places)), "a task is in two places"

    @staticmethod
    def _same_stream(mine: list[Entry], entries: Any, pending: Any) -> None:
        found = [(entry_id.decode(), msgspec.json.decode(f[b"task"])["message"]["taskId"]) for entry_id, f in entries]
        known = {e.id for e in mine if e.id}
        new = [(entry_id, task) for entry_id, task in found if entry_id not in known]
        nameless = [e for e in mine if not e.id]
        assert sorted(e.task for e in nameless) == sorted(task for _, task in new)
        for entry, (entry_id, task) in zip(
            nameless, new, strict=True
        ):  # several come at once in the order of the server
            entry.id, entry.task = entry_id, task
        assert [(e.id, e.task) for e in mine if not e.gone] == found
        owners = {p["message_id"].decode(): p["consumer"].decode() for p in pending}
        assert owners == {e.id: e.owner for e in mine if e.owner not in {NOBODY, GHOST}}
