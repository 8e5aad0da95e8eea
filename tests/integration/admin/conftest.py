"""A running system without processes: tasks are put where a daemon puts them, by the code that a daemon uses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from daemon.admin.connections import Connections
from daemon.config import PostgresSettings, RedisSettings, Settings
from daemon.config.settings import RuntimeSettings
from daemon.domain.errors import Code
from daemon.domain.events import Channel, Stage, Usage, done, error, started, token_batch
from daemon.domain.messages import TaskIdentity, TaskMessage, content_sha256
from daemon.domain.model_io import FinishReason
from daemon.domain.states import State
from daemon.events.log import EventLog
from daemon.ports import Claimed, Delivery, ResultDraft, Transition
from daemon.queues.admission import Accepted, Admission
from daemon.queues.streams import WorkStreams
from daemon.store.tasks import PostgresLedger

LEASE_MS = 20_000


@pytest.fixture
def settings(redis_settings: RedisSettings, postgres_settings: PostgresSettings) -> Settings:
    """Both servers, all else as shipped, in the environment `test`."""
    return Settings(redis=redis_settings, postgres=postgres_settings, runtime=RuntimeSettings(environment="test"))


@pytest.fixture
async def at(settings: Settings) -> AsyncIterator[Connections]:
    """Open connections."""
    async with Connections(settings) as connections:
        yield connections


class System:
    """Puts tasks where they are wanted."""

    def __init__(self, at: Connections) -> None:
        self.at = at
        self.consumer = "host-1-abcd"
        self.admission = Admission(at.scripts, at.settings.queues, at.clock)
        self.events = EventLog(at.scripts, at.settings.events, at.clock)
        self.work = WorkStreams(at.scripts, at.settings.queues, self.consumer)
        self.ledger = PostgresLedger(at.pool)

    async def accept(self, task_id: str, queue: str = "q_paid_stream", user: str = "u1") -> None:
        """As the relay does."""
        message = TaskMessage(
            task_id=task_id, queue_id=queue, service_id="resume-review", user_id=user,
            variables={"resume": "canary-prompt"},
        )  # fmt: skip
        verdict = await self.admission.accept(message, "sha", 10_000, {})
        assert isinstance(verdict, Accepted)
        await self.events.queued(self.identity(task_id, queue), verdict.position)

    async def read(self, queue: str = "q_paid_stream", count: int = 1) -> list[Delivery]:
        """As a living consumer does."""
        await self.work.make_groups([queue])
        await self.work.register(self.at.scripts, [queue], LEASE_MS)
        return await self.work.fetch(queue, count)

    async def start(self, task_id: str, queue: str = "q_paid_stream") -> tuple[Delivery, Claimed]:
        """Accepted, read, claimed, begun."""
        await self.accept(task_id, queue)
        delivery = (await self.read(queue))[0]
        claimed = await self.ledger.claim(delivery, self.consumer, "deepseek-pro", 20.0)
        assert isinstance(claimed, Claimed)
        drafts = [started("deepseek-pro")]
        await self.at.scripts.run(
            [self.work.begin_call(delivery, task_id),
             self.events.append_call(self.identity(task_id, queue), claimed.attempt, drafts)]
        )  # fmt: skip
        return delivery, claimed

    async def park(self, delivery: Delivery, reason: str, due_in_ms: int) -> None:
        """As a full guard or a backoff does."""
        assert delivery.entry is not None
        now_ms = round(self.at.clock.time() * 1000)
        entry = msgspec.structs.replace(delivery.entry, parked=reason, parked_at=now_ms)
        raw = msgspec.json.encode(entry)
        await self.at.scripts.run([self.work.snooze_call(delivery, entry.message.task_id, raw, due_in_ms)])

    async def finish(self, task_id: str, finish_reason: FinishReason | None = "stop") -> None:
        """Done, with an answer, its event and its ack."""
        delivery, claimed = await self.start(task_id)
        answer = "canary-answer"
        usage, sha = Usage(7, 0, 3, 0, 0.01), content_sha256(answer)
        draft = ResultDraft(answer, None, sha, "deepseek-pro", usage, None, finish_reason)
        await self.ledger.finish(task_id, claimed.attempt, self.consumer, draft)
        event = done(
            task_id, usage=draft.usage, model_id=draft.model_id, content_sha256=draft.content_sha256, result=answer
        )
        task = self.identity(task_id, delivery.queue)
        await self.at.scripts.run(
            [self.events.append_call(task, claimed.attempt, [token_batch(answer, Channel.TEXT), event]),
             self.work.ack_call(delivery, whole_task=True)]
        )  # fmt: skip

    async def fail(self, task_id: str) -> None:
        """Ended badly, with a dead letter."""
        delivery, claimed = await self.start(task_id)
        ending = Transition(State.FAILED, Code.LLM_ERROR, "failed", count_failure=True)
        assert await self.ledger.transition(task_id, claimed.attempt, self.consumer, ending)
        event = error(Stage.EXECUTE, Code.LLM_ERROR, "no", retryable=False)
        letter = self.work.dead_letter_call(
            delivery, code=Code.LLM_ERROR, reason="no", attempts=claimed.attempt, whole_task=True
        )
        task = self.identity(task_id, delivery.queue)
        await self.at.scripts.run([self.events.append_call(task, claimed.attempt, [event]), letter])

    async def hold(self, key: str, *members: str) -> None:
        """Places in a guard."""
        now_ms = round(self.at.clock.time() * 1000)
        await self.at.redis.zadd(key, dict.fromkeys(members, now_ms + LEASE_MS))

    @staticmethod
    def identity(task_id: str, queue: str) -> TaskIdentity:
        """What events carry."""
        return TaskIdentity(task_id, queue, "r", "t")


@pytest.fixture
async def system(at: Connections) -> System:
    """A system that nothing was sent to yet."""
    return System(at)
