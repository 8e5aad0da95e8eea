"""What happened, and whether it may have: the checker of the chaos suites.

Reads what relay, viewers, provider, Postgres and Redis recorded and evaluates the invariants of docs/reliability.md
after everything has come to rest. One line for each violation; an empty list is the promise kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import msgspec

from daemon.domain.messages import content_sha256
from daemon.domain.states import TERMINAL
from daemon.redis_client import keys
from tests.leaks import Leaks

if TYPE_CHECKING:
    from daemon.dev.fake_llm import Call
    from tests.e2e.world import Published, World

Event = Mapping[str, Any]


@dataclass
class TaskHistory:
    """All that is known of one task."""

    published: Published
    events: Sequence[Event]
    row: Mapping[str, Any] | None
    attempts: Sequence[Mapping[str, Any]]
    results: Sequence[Mapping[str, Any]]
    calls: Sequence[Call]

    def violations(
        self, *, streams: bool, overlap_s: float, events_lost: bool, replayed: bool, calls_max: int | None
    ) -> Iterator[str]:
        """What may not have happened to this task."""
        if self.row is None or self.row["state"] not in TERMINAL:
            yield f"I1: accepted, but its row says {self.row['state'] if self.row else 'nothing'}"
            return
        yield from self._row_and_results(replayed=replayed)
        yield from self._calls(overlap_s)
        if calls_max is not None and len(self.calls) > calls_max:
            yield f"I12: {len(self.calls)} model calls, this fault may cost {calls_max}"
        if not events_lost:
            yield from self._order()
            yield from self._ends(streams=streams)

    def _row_and_results(self, *, replayed: bool) -> Iterator[str]:
        row = self.row
        assert row is not None
        done = row["state"] == "done"
        if len(self.results) != done:
            yield f"I2: {row['state']} with {len(self.results)} results"
        for result in self.results:
            if result["attempt"] != row["attempt"]:
                yield f"I2: the result is of attempt {result['attempt']}, the row of {row['attempt']}"
            if content_sha256(result["content"]) != result["content_sha256"]:
                yield "I2: contentSha256 of the row is not that of its content"
        outcomes = Counter(attempt["outcome"] for attempt in self.attempts)
        if outcomes[None]:
            yield f"I2: {outcomes[None]} attempts have no end"
        if outcomes["done"] != done:
            yield f"I2: {outcomes['done']} attempts say done, the row says {row['state']}"
        if [a["attempt"] for a in self.attempts] != list(range(1, row["attempt"] + 1)):
            yield f"I4: attempts {[a['attempt'] for a in self.attempts]}, the fence stands at {row['attempt']}"
        if not replayed and outcomes["failed"] != row["failures"]:
            yield f"I9: {outcomes['failed']} failed attempts, {row['failures']} failures counted"

    def _calls(self, overlap_s: float) -> Iterator[str]:
        if len(self.calls) > len(self.attempts):
            yield f"I12: {len(self.calls)} model calls in {len(self.attempts)} attempts"
        for result in self.results:
            committed = result["created_at"].timestamp()
            for call in self.calls:
                late = call.began - committed
                if late > 0.005 + overlap_s:
                    yield f"I12: a model call {late:.2f} s after the result was committed"
        for before, after in pairwise(sorted(self.calls, key=lambda call: call.began)):
            open_for = (before.ended or float("inf")) - after.began
            if open_for > overlap_s:
                yield f"I4: two model calls at once for {open_for:.2f} s"

    def _order(self) -> Iterator[str]:
        events = self.events
        if not events or (events[0]["type"], events[0]["attempt"], events[0]["seq"]) != ("queued", 0, 0):
            yield f"I8: the first event is not `queued` 0:0 but {_short(events[0]) if events else 'missing'}"
        if sum(e["type"] == "queued" for e in events) != 1:
            yield f"I13: `queued` {sum(e['type'] == 'queued' for e in events)} times"
        last = (0, 0)
        for event in events[1:]:
            here = (event["attempt"], event["seq"])
            expected = (last[0], last[1] + 1) if here[0] == last[0] else (here[0], 1)
            if here != expected or here[0] < last[0]:
                yield f"I8: {_short(event)} follows {last}"
            last = here
        for attempt, started in Counter(e["attempt"] for e in events if e["type"] == "started").items():
            if started > 1:
                yield f"I8: attempt {attempt} started {started} times"
        silent = {e["attempt"] for e in events if e["type"] == "token_batch"} - {
            e["attempt"] for e in events if e["type"] == "started"
        }
        if silent:
            yield f"I8: text of attempts {silent} without `started`"

    def _ends(self, *, streams: bool) -> Iterator[str]:
        row = self.row
        assert row is not None
        ends = [at for at, e in enumerate(self.events) if e["type"] == "done" or e.get("retryable") is False]
        if len(ends) != 1 or ends[0] != len(self.events) - 1:
            yield f"I1: terminal events at {ends} of {len(self.events)}"
            return
        end = self.events[-1]
        if (end["type"] == "done") != (row["state"] == "done"):
            yield f"I1: the row says {row['state']}, the viewer was told {_short(end)}"
        if end["attempt"] > row["attempt"]:
            yield f"I4: the end is of attempt {end['attempt']}, the fence stands at {row['attempt']}"
        if end["type"] != "done" or not self.results:
            return
        [result] = self.results
        if end["contentSha256"] != result["content_sha256"] or end["resultRef"] != f"db:result:{row['task_id']}":
            yield "I2: `done` names another result than the one in Postgres"
        if streams:
            last = [e["delta"] for e in self.events if e["type"] == "token_batch" and e["attempt"] == end["attempt"]
                    and e["channel"] == "text"]  # fmt: skip
            if content_sha256("".join(last)) != end["contentSha256"]:
                yield f"I2: the deltas of attempt {end['attempt']} are not the text of the result"


@dataclass
class History:
    """The whole record of one world at rest."""

    tasks: Mapping[str, TaskHistory]
    redis: Sequence[str]  #: what is left in Redis and should not be
    consumers: Mapping[str, int]  #: of each queue
    strangers: int  #: model calls of no task
    live: int  #: daemons that run
    notes: list[str] = field(default_factory=list)

    @classmethod
    async def read(cls, world: World) -> Self:
        """From Redis, Postgres and the provider's log."""
        rows = {r["task_id"]: dict(r) for r in await world.sql("SELECT * FROM qstreamd.tasks")}
        attempts: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        results: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        calls: defaultdict[str, list[Call]] = defaultdict(list)
        for record in await world.sql("SELECT * FROM qstreamd.attempts ORDER BY attempt"):
            attempts[record["task_id"]].append(dict(record))
        for record in await world.sql("SELECT * FROM qstreamd.results"):
            results[record["task_id"]].append(dict(record))
        for call in world.llm.calls:
            calls[call.user].append(call)
        tasks = {}
        for task_id, published in world.published.items():
            if not published.accepted:
                continue
            events = await _events(world, task_id)
            tasks[task_id] = TaskHistory(
                published, events, rows.get(task_id), attempts[task_id], results[task_id], calls[published.user_tag]
            )
        known = {task.published.user_tag for task in tasks.values()}
        return cls(
            tasks,
            await _left(world),
            await _consumers(world),
            sum(len(c) for user, c in calls.items() if user not in known),
            sum(d.running for d in world.daemons),
        )

    def violations(
        self,
        *,
        overlap_s: float = 0.0,
        events_lost: bool = False,
        replayed: Sequence[str] = (),
        keys_left: bool = False,
        calls_max: int | None = None,
    ) -> list[str]:
        """One line for each broken promise.

        `overlap_s`: how long two calls of one task may be open together (a zombie, until it notices). `events_lost`:
        the test emptied Redis, so the streams tell nothing. `replayed`: tasks that an operator started anew.
        `calls_max`: model calls that the fault may cost each task.
        """
        found = [
            f"{task_id}: {line}"
            for task_id, task in self.tasks.items()
            for line in task.violations(
                streams=task.published.queue.endswith("stream"),
                overlap_s=overlap_s,
                events_lost=events_lost,
                replayed=task_id in replayed,
                calls_max=calls_max,
            )
        ]
        if not keys_left:
            found += [f"I10: {line}" for line in self.redis]
        if self.strangers:
            found.append(f"I14: {self.strangers} model calls of no accepted task")
        return found

    def calls(self) -> int:
        """Model calls in all."""
        return sum(len(task.calls) for task in self.tasks.values())

    def states(self) -> Counter[str]:
        """How many tasks ended in each state."""
        return Counter(task.row["state"] if task.row else "no row" for task in self.tasks.values())


async def _events(world: World, task_id: str) -> list[Event]:
    entries = await world.redis.xrange(keys.events(task_id))
    return [msgspec.json.decode(fields["data"]) for _, fields in entries]


async def _left(world: World) -> list[str]:
    found = Leaks(world.redis_url).find()
    for queue in {task.queue for task in world.published.values()}:
        names = keys.queue_keys(queue)
        if count := await world.redis.hlen(names.held):
            found.append(f"{names.held}: {count} messages")
        counter, waiting = await world.redis.get(names.counter), await world.redis.zcard(names.waiting)
        if int(counter or 0) != waiting:
            found.append(f"I7: {names.counter} says {counter}, {waiting} wait")
    return found + [f"I6: {line}" for line in await places_taken(world.redis)]


async def places_taken(redis: Any) -> list[str]:
    """Guards in which somebody holds a place."""
    seconds, micros = await redis.time()
    now = seconds * 1000 + micros // 1000
    held = {
        key: await redis.zcount(key, now, "+inf")
        for kind in ("model", "user", "queue", "probe")
        async for key in redis.scan_iter(f"{{guard}}:{kind}:*")
    }
    return [f"{key}: {count} places" for key, count in held.items() if count]


async def _consumers(world: World) -> dict[str, int]:
    found = {}
    for queue in {task.queue for task in world.published.values()}:
        names = keys.queue_keys(queue)
        found[queue] = len(await world.redis.xinfo_consumers(names.tasks, keys.GROUP))
    return found


def _short(event: Event) -> str:
    return f"{event['type']} {event['attempt']}:{event['seq']}"
