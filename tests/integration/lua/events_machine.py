"""One task's events in any order of appends, held against a model after each step (Hypothesis, rule based)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis.asyncio import Redis

from daemon.config import EventSettings, QueueSettings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code
from daemon.domain.events import EventDraft, Stage, error, progress, started
from daemon.events.cancel_notices import CancelRequests
from daemon.events.log import EventLog
from daemon.queues.dead_letters import DeadLetters
from daemon.redis_client import keys
from daemon.redis_client.scripts import Scripts
from tests.integration.redis_side import task

T = TypeVar("T")
TASK = task("t1")
attempts = st.integers(1, 4)
owners = st.sampled_from(["a", "b", ""])  #: the last one is of a process that runs no attempt


class EventsMachine(RuleBasedStateMachine):
    """Attempts, zombies, bystanders (relay, cancel), repeated calls, replays."""

    runner: asyncio.Runner
    client: Redis

    def __init__(self) -> None:
        super().__init__()
        self.do(self.client.flushdb())
        self.scripts = scripts = Scripts(self.client)
        self.sides = {name: EventLog(scripts, EventSettings(), SystemClock(), name) for name in ("a", "b", "")}
        self.events = self.sides["a"]
        self.cancels = CancelRequests(scripts, EventSettings(), QueueSettings())
        self.letters = DeadLetters(self.client, scripts)
        self.told: list[tuple[str, int, int]] = []  #: type, attempt, seq
        self.attempt, self.seq, self.owner = 0, 0, ""
        self.ended = self.cancelled = False
        self.last: dict[str, str] = {}  #: the last nonce of an attempt, and of a bystander

    def do(self, work: Awaitable[T]) -> T:
        """The answer of the server."""

        async def wrapped() -> T:
            return await work

        return self.runner.run(wrapped())

    def _append(self, attempt: int, drafts: list[EventDraft], after: int | None = None, owner: str = "a") -> None:
        call = self.sides[owner].append_call(TASK, attempt, drafts, after=after)
        appended = EventLog.appended(self.do(self.scripts.run([call]))[0])
        assert appended.cancel == self.cancelled
        nonce, side = drafts[0].nonce, "side" if attempt == -1 else "op"
        if nonce in self.last.values():
            assert appended.accepted
            return
        assert appended.ended == self.ended
        here = self.attempt if attempt == -1 else attempt
        who = "" if attempt == -1 or after is not None else owner
        others = bool(who and self.owner) and who != self.owner
        starts_again = drafts[0].type == "started"
        accepted = not self.ended and (here > self.attempt or (here == self.attempt and not (others or starts_again)))
        overtaken = accepted and after not in (None, self.seq if here == self.attempt else 0)
        assert appended.overtaken == overtaken
        accepted = accepted and not overtaken
        assert appended.accepted == accepted
        if not accepted:
            return
        self._queued()
        if here > self.attempt:
            self.seq, self.owner = 0, who
        self.owner = who or self.owner
        self.attempt = here
        for draft in drafts:
            self.seq += 1
            self.told.append((draft.type.value, here, self.seq))
            self.ended = self.ended or draft.terminal
        self.last[side] = nonce

    def _queued(self) -> None:
        if not self.told:
            self.told.append(("queued", 0, 0))

    @rule()
    def relay_says_queued(self) -> None:
        """Once, whoever comes first."""
        self.do(self.events.queued(TASK, 1))
        if not self.ended:
            self._queued()

    @rule(attempt=attempts, many=st.integers(1, 3), repeat=st.integers(0, 2), owner=owners, starts=st.booleans())
    def append(self, attempt: int, many: int, repeat: int, owner: str, *, starts: bool) -> None:
        """An attempt, perhaps a zombie's, tells something; a lost reply makes it tell the same again."""
        drafts = [progress(Stage.EXECUTE, "on") for _ in range(many)]
        if starts:
            drafts[0] = started("m")
        for _ in range(1 + repeat):
            self._append(attempt, drafts, owner=owner)

    @rule(attempt=attempts, repeat=st.booleans())
    def bystander_between_an_append_and_its_repetition(self, attempt: int, *, repeat: bool) -> None:
        """Its nonce must not make the attempt's forgotten, or a delta would be doubled."""
        mine, other = [progress(Stage.EXECUTE, "on")], [progress(Stage.QUEUE, "waits")]
        self._append(attempt, mine)
        self._append(-1, other)
        if repeat:
            self._append(attempt, mine)
            self._append(-1, other)

    @rule(attempt=st.sampled_from([-1, 1, 2, 3, 4]), repeat=st.booleans(), owner=owners)
    def end(self, attempt: int, owner: str, *, repeat: bool) -> None:
        """The terminal event; nothing follows it."""
        draft = error(Stage.EXECUTE, Code.LLM_ERROR, "no", retryable=False)
        for _ in range(1 + repeat):
            self._append(attempt, [draft], owner=owner)

    @rule(attempt=attempts, ahead=st.integers(-1, 1), repeat=st.booleans(), owner=owners)
    def append_if_nothing_came_since(self, attempt: int, ahead: int, owner: str, *, repeat: bool) -> None:
        """Who repeats a tail has looked before; a word in between makes it look again."""
        draft = progress(Stage.EXECUTE, "the rest")
        for _ in range(1 + repeat):
            self._append(attempt, [draft], after=max(0, self.seq + ahead), owner=owner)

    @rule()
    def cancel(self) -> None:
        """Every append tells of it until the end."""
        assert self.do(self.cancels.mark("t1")) == (not self.ended)
        self.cancelled = self.cancelled or not self.ended

    @rule(repeat=st.booleans())
    def replay(self, *, repeat: bool) -> None:
        """The events begin again, once; the fence stays."""
        for _ in range(1 + repeat):
            assert self.do(self.letters.begin_again("t1")) == self.ended
            if self.ended:
                self.told, self.seq, self.last = [], 0, {}
                self.ended = self.cancelled = False

    @invariant()
    def viewers_see_one_story(self) -> None:
        """What is in the stream, in order."""
        entries: Any = self.do(self.client.xrange(keys.events("t1")))
        found = [msgspec.json.decode(fields[b"data"]) for _, fields in entries]
        assert [(e["type"], e["attempt"], e["seq"]) for e in found] == self.told
        assert all(self.do(self.client.ttl(key)) != -1 for key in (keys.events("t1"), keys.events_state("t1")))
