"""A load for a running system: signed calls to its relay at a chosen rate, each task followed to its end like a viewer.

Some calls are wrong on purpose (sent twice, a bad signature, an unknown field), to see that the door holds. Every other
task is real work for whatever models the system has. Called by `loadtest`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import msgspec
from redis.asyncio import Redis

from daemon.admin.signed_call import signature
from daemon.domain.queues import QueueSpec
from daemon.ports import Clock
from daemon.redis_client import keys
from daemon.redis_client.connection import translated
from daemon.services import Service, ServiceCatalog
from daemon.services.prompts import prompt

CALL_S: Final = 15.0
BLOCK_MS: Final = 100  #: of the shared read: a new task is seen so late
PAGE: Final = 500
#: what is done wrong on purpose -> the answer that the door must give
WRONG: Final[Mapping[str, int]] = {"twice": 200, "bad_signature": 401, "unknown_field": 489}


@dataclass(frozen=True, slots=True)
class Share:
    """One part of the mix."""

    queue: QueueSpec
    service: Service
    weight: float
    variables: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """What to send. `fault_share` of the calls are wrong on purpose."""

    per_minute: float
    duration_s: float
    mix: Sequence[Share]
    users: int = 20
    fault_share: float = 0.0
    drain_s: float = 300.0


@dataclass(slots=True)
class Sent:
    """One task and what became of it; times are monotonic seconds."""

    task_id: str
    queue: str
    sent_at: float
    answered_at: float | None = None
    status: int = 0  #: 0: no answer came
    started_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    end: str = ""  #: `done` or the code of the terminal event
    attempts: int = 0
    waits: list[str] = field(default_factory=list)  #: reasons, as they were told


@dataclass(slots=True)
class Progress:
    """So far."""

    sent: int = 0
    accepted: int = 0
    refused: int = 0
    running: int = 0
    ended: int = 0
    failed: int = 0
    wrong: int = 0  #: calls that were wrong on purpose
    held: int = 0  #: of these, how many got the answer that they must get


class Target:
    """Where to send: the relay's address as signatures name it (`base_url`), where it is reached, and its key."""

    def __init__(self, base_url: str, key: str, address: str | None = None) -> None:
        self.base_url = base_url
        self.key = key
        self.address = address or base_url


class Generator:
    """Sends and follows. `run` once; `progress` and `tasks` may be read at any time."""

    def __init__(self, target: Target, redis: Redis, clock: Clock, order: Order) -> None:
        self._target, self._redis, self._clock, self._order = target, redis, clock, order
        self._random = random.Random(11)
        self._prefix = f"loadtest-{secrets.token_hex(3)}"
        self._watched: dict[str, str] = {}  # event stream -> cursor
        self._sending = True
        self.progress = Progress()
        self.tasks: dict[str, Sent] = {}

    async def run(self, tell: Callable[[], None] = lambda: None) -> None:
        """Send for `duration_s`, follow until all have ended or `drain_s` is over. Raises `RedisAway`."""
        limit = aiohttp.ClientTimeout(total=CALL_S)
        async with aiohttp.ClientSession(timeout=limit) as session, asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(), name="watch")
            telling = group.create_task(_each_second(tell), name="tell")
            async with asyncio.TaskGroup() as calls:
                began, due = self._clock.monotonic(), 0.0
                while due < self._order.duration_s:
                    await asyncio.sleep(max(0.0, began + due - self._clock.monotonic()))
                    calls.create_task(self._one(session), name="call")
                    due += self._random.expovariate(self._order.per_minute / 60)
            self._sending = False
            await asyncio.wait([watching], timeout=self._order.drain_s)
            watching.cancel()
            telling.cancel()
        tell()

    @property
    def unended(self) -> list[Sent]:
        """Accepted tasks without a terminal event."""
        return [task for task in self.tasks.values() if task.status == 200 and task.ended_at is None]

    # --- sending ------------------------------------------------------------------------------------------------

    async def _one(self, session: aiohttp.ClientSession) -> None:
        share = self._random.choices(self._order.mix, [one.weight for one in self._order.mix])[0]
        task_id = f"{self._prefix}-{len(self.tasks)}"
        fault = ""
        if self._random.random() < self._order.fault_share:
            fault = self._random.choice(list(WRONG))
        if fault in {"bad_signature", "unknown_field"}:
            await self._wrong(session, share, f"{self._prefix}-x{self.progress.wrong}", fault)
            return
        task = self.tasks[task_id] = Sent(task_id, share.queue.name, self._clock.monotonic())
        self._watched[keys.events(task_id)] = "0-0"
        self.progress.sent += 1
        task.status = await self._call(session, share, self._body(share, task_id))
        task.answered_at = self._clock.monotonic()
        self.progress.accepted += task.status == 200
        self.progress.refused += task.status != 200
        if task.status != 200:
            self._watched.pop(keys.events(task_id), None)
        elif fault:
            await self._wrong(session, share, task_id, fault)

    async def _wrong(self, session: aiohttp.ClientSession, share: Share, task_id: str, fault: str) -> None:
        self.progress.wrong += 1
        body = self._body(share, task_id, **({"unknownField": 1} if fault == "unknown_field" else {}))
        status = await self._call(session, share, body, key="sig_wrong" if fault == "bad_signature" else None)
        self.progress.held += status == WRONG[fault]

    async def _call(self, session: aiohttp.ClientSession, share: Share, body: bytes, key: str | None = None) -> int:
        path = f"/api/worker/{share.queue.mode}/{share.service.id}"
        url = f"{self._target.base_url}{path}"
        headers = {
            "Content-Type": "application/json",
            "Upstash-Signature": signature(key or self._target.key, url, body, self._clock.time()),
        }
        try:
            async with session.post(f"{self._target.address}{path}", data=body, headers=headers) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0

    def _body(self, share: Share, task_id: str, **more: Any) -> bytes:
        number = int(task_id.rpartition("-")[2].strip("x"))
        user = f"loadtest-user-{number % self._order.users}"
        return msgspec.json.encode(
            {
                "v": 1,
                "taskId": task_id,
                "queueId": share.queue.name,
                "userId": user,
                "variables": share.variables,
                **more,
            }
        )

    # --- following ----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """One read over all streams that have not ended; ends when nothing is sent and nothing is open any more."""
        while self._sending or self._watched:
            if not self._watched:
                await asyncio.sleep(BLOCK_MS / 1000)
                continue
            streams: dict[Any, Any] = dict(self._watched)
            with translated():
                reply: Any = await self._redis.xread(streams, count=PAGE, block=BLOCK_MS)
            now = self._clock.monotonic()
            for key, entries in (reply or {}).items():
                self._heard(key.decode(), entries, now)

    def _heard(self, key: str, entries: Sequence[Any], now: float) -> None:
        task = self.tasks[key.removeprefix("task:").removesuffix(":events")]
        for entry_id, fields in entries:
            self._watched[key] = entry_id.decode()
            kind = fields[b"type"].decode()
            if kind == "started":
                self.progress.running += task.started_at is None
                task.started_at = task.started_at or now
                task.attempts += 1
            elif kind == "token_batch":
                task.first_token_at = task.first_token_at or now
            elif kind in {"progress", "error", "done"}:
                data = msgspec.json.decode(fields[b"data"], type=dict[str, Any])
                if kind == "done" or (kind == "error" and not data.get("retryable")):
                    self._ended(task, "done" if kind == "done" else str(data.get("code")), now)
                    self._watched.pop(key, None)
                elif data.get("reason"):
                    task.waits.append(str(data["reason"]))

    def _ended(self, task: Sent, end: str, now: float) -> None:
        task.end, task.ended_at = end, now
        self.progress.running -= task.started_at is not None
        self.progress.ended += 1
        self.progress.failed += end != "done"


async def _each_second(tell: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(1.0)
        tell()


# --- the mix ------------------------------------------------------------------------------------------------------

#: what a required variable is given when nobody says what
FILLER: Final = "Ten years of Python, two of them on call; led a team of four; likes boring technology. "


def default_mix(catalog: ServiceCatalog) -> list[Share]:
    """The first service without images and with a prompt of its own, for each queue that is not for images."""
    return [
        Share(queue, service, 1.0, filled(service))
        for queue in catalog.queues.values()
        if not queue.vision
        and (service := next((s for s in catalog.services.values() if _fits(s, queue) and s.prompt), None)) is not None
    ]


def parse_mix(text: str, catalog: ServiceCatalog, variables: Mapping[str, Any] | None) -> Iterator[Share]:
    """`QUEUE:SERVICE=WEIGHT,…`. Raises ValueError with what is wrong."""
    for part in text.split(","):
        names, _, weight = part.strip().partition("=")
        queue_name, _, service_name = names.partition(":")
        queue, service = catalog.queues.get(queue_name), catalog.services.get(service_name)
        if queue is None or service is None:
            raise ValueError(f"{names!r}: wanted QUEUE:SERVICE of the services file")
        if not _fits(service, queue):
            raise ValueError(f"{names!r}: this service takes images, or is not offered to the tier of the queue")
        if service.prompt is None and variables is None:
            raise ValueError(f"{names!r}: its prompt is in Postgres, so its variables must be given (--variables)")
        given = dict(variables) if variables is not None else filled(service)
        yield Share(queue, service, float(weight or 1), given)


def filled(service: Service) -> dict[str, str]:
    """A text for each variable that the service's prompt can't do without."""
    return dict.fromkeys(prompt(service.prompt or "").required, FILLER * 3)


def _fits(service: Service, queue: QueueSpec) -> bool:
    return queue.tier in service.models and not service.takes_images
