"""A whole qstreamd around one test: a relay and daemons as processes, a stand-in for the models in ours.

Times are a twentieth of the shipped ones, so that a lease is one second. Every task that is published through a
world is remembered, and `history` hands all that happened to the checker.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import asyncpg
import msgspec
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004

from daemon.dev.fake_llm import FakeLLM
from daemon.dev.fake_llm.faults import KINDS
from daemon.dev.fake_llm.shapes import Asked
from daemon.domain.states import TERMINAL
from daemon.redis_client import keys
from tests.e2e.history import History, places_taken
from tests.e2e.processes import DaemonProcess, Spawn, spawn
from tests.e2e.relay_process import Relay, running_relay
from tests.redis_clusters import observer
from tests.waiting import wait_until

LEASE_S: Final = 1.0
QUEUES: Final = "q_paid_stream,q_paid_batch"
#: a twentieth of what ships; the three numbers of a lease keep their proportions
FAST: Final = {
    "QSTREAMD_LEASE_S": "1",
    "QSTREAMD_BEAT_S": "0.25",
    "QSTREAMD_SELF_FENCE_S": "0.75",
    "QSTREAMD_LIVENESS_S": "0.2",
    "QSTREAMD_LIVENESS_TTL_S": "0.6",
    "QSTREAMD_COMPARE_S": "1",
    "QSTREAMD_RETRY_BASE_S": "0.1",
    "QSTREAMD_RETRY_CAP_S": "0.5",
    "QSTREAMD_GUARD_RETRY_S": "0.2",
    "QSTREAMD_DEFER_S": "0.3",
    "QSTREAMD_DRAIN_S": "20",
    "QSTREAMD_REDIS_BLOCK_S": "5",
    "USER_CONCURRENCY_PAID": "100",
    "QUEUE_PARALLELISM_PAID_STREAM": "20",
    "QUEUE_PARALLELISM_PAID_BATCH": "20",
}
#: a lease as shipped: where nobody has to take over, a machine that stands still for a second fences nobody
CALM: Final = {"QSTREAMD_LEASE_S": "20", "QSTREAMD_SELF_FENCE_S": "15"}
_MODEL: Final = """
[models.{id}]
provider = "openai"
name = "{name}"
input = ["text", "image"]
concurrency = {{ paid = 200, free = 200 }}

[services.{id}]
title = "{id}"
prompt = "{{{{ tokens }}}} tokens of {{{{ id }}}}"
models = {{ paid = ["{id}"], free = ["{id}"] }}
first_token_s = {wait_s}
idle_s = {wait_s}
total_s = {total_s}
attempts = 3
{more}
"""
_LOOK_S: Final = 30.0  #: our own look at a server: only one that never answers is a failure
#: our own look at a server that a test restarts
_PATIENT: Final = Retry(ConstantBackoff(0.1), 50, supported_errors=(ConnectionError, TimeoutError))
_ASKED: Final = re.compile(r"(\d+) tokens of (\S+)")


#: a service whose model runs one call at a time
ONE_AT_A_TIME: Final = """
[models.narrow]
provider = "openai"
name = "narrow"
input = ["text"]
concurrency = { paid = 1, free = 1 }

[services.narrow]
title = "narrow"
prompt = "{{ tokens }} tokens of {{ id }}"
models = { paid = ["narrow"], free = ["narrow"] }
"""


def services_toml() -> str:
    """A service for each fault of the stand-in (`cut`, `cut-once`, …), `plain`, `hang-once`, `brief` and `json`."""
    parts = [_MODEL.format(id=i, name=i, total_s=60, wait_s=20, more="") for i in ("plain", "solo")]
    parts.append(_MODEL.format(id="hang-once", name="fault-stall-mid-once", total_s=60, wait_s=20, more=""))
    parts.append(_MODEL.format(id="brief", name="brief", total_s=1.5, wait_s=1.5, more=""))
    parts.append(_MODEL.format(id="json", name="json", total_s=60, wait_s=20, more='output = "json"'))
    kinds = [kind + once for kind in (*KINDS, "500", "429-after-1") for once in ("", "-once") if kind != "ok"]
    parts += [_MODEL.format(id=f"f-{kind}", name=f"fault-{kind}", total_s=6, wait_s=3, more="") for kind in kinds]
    return "".join(parts)


@dataclass
class Published:
    """One task that a relay accepted."""

    task_id: str
    queue: str
    user_tag: str
    accepted: int = 0  #: answers 200, the first and the duplicates


@dataclass
class World:
    """Servers are given; relay, daemons and stand-in are its own. An async context manager."""

    redis_url: str
    database_url: str
    directory: Path
    tokens_per_s: float = 200.0
    variables: dict[str, str] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)
    daemons: list[DaemonProcess] = field(default_factory=list)
    spawned_by: Spawn = spawn  #: how its processes begin
    strict: bool = False  #: its models know the vendors' names only

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        (self.directory / "services.toml").write_text(services_toml(), "utf-8")
        self.llm = FakeLLM(
            tokens_per_s=self.tokens_per_s, first_token_s=0.02, drip_s=1.0, answer=said, strict=self.strict
        )
        await self._stack.enter_async_context(self.llm)
        self.redis: Any = observer(self.redis_url, socket_timeout=_LOOK_S, decode_responses=True, retry=_PATIENT)
        self._stack.push_async_callback(self.redis.aclose)
        self.relay: Relay | None = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for daemon in self.daemons:
            daemon.discard()
        await self._stack.aclose()

    # --- processes ------------------------------------------------------------------------------------------------

    async def start_relay(self, command: Sequence[str] = (), **variables: str) -> Relay:
        """A relay; the world calls it from now on. `command` replaces the program."""
        given = {"SERVICES_FILE": str(self.directory / "services.toml"), "QUEUE_MAX_SIZE": "100000", **variables}
        # starts a process and waits for it
        program = command or ("-m", "daemon", "relay")
        context = running_relay(self.redis_url, self.spawned_by, command=program, **given)
        self.relay = await asyncio.to_thread(context.__enter__)
        self._stack.push_async_callback(asyncio.to_thread, context.__exit__, None, None, None)
        return self.relay

    def new_daemon(self, queues: str = QUEUES, *, redis_url: str = "", **variables: str) -> DaemonProcess:
        """A daemon that was not started yet. `redis_url`: through a proxy, say."""
        own = {
            "NODE_ENV": "production",
            "REDIS_URL": redis_url or self.redis_url,
            "DATABASE_URL": self.database_url,
            "SERVICES_FILE": str(self.directory / "services.toml"),
            "OPENAI_BASE_URL": self.llm.openai_url,
            "OPENAI_API_KEY": "sk-of-the-tests",
            "QSTREAMD_LOG_FORMAT": "json",
            **FAST,
            **self.variables,
            **variables,
        }
        daemon = DaemonProcess(f"daemon-{len(self.daemons) + 1}", queues, own, self.directory, self.spawned_by)
        self.daemons.append(daemon)
        return daemon

    async def start_daemon(self, queues: str = QUEUES, *, redis_url: str = "", **variables: str) -> DaemonProcess:
        """A daemon that reads."""
        daemon = self.new_daemon(queues, redis_url=redis_url, **variables)
        daemon.start()
        await daemon.ready()
        return daemon

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def publish(
        self,
        task_id: str,
        service: str = "plain",
        *,
        tokens: int = 20,
        queue: str = "q_paid_stream",
        traceparent: str | None = None,
        **more: Any,
    ) -> Published:
        """One signed call, repeated as QStash would until it is accepted."""
        headers = {} if traceparent is None else {"traceparent": traceparent}
        body = {
            "taskId": task_id, "queueId": queue, "serviceId": service, "userId": f"user-{task_id}",
            "variables": {"id": task_id, "tokens": tokens}, **more,
        }  # fmt: skip
        task = self.published.setdefault(task_id, Published(task_id, queue, tag(str(body["userId"]))))
        relay = self.relay or await self.start_relay()
        for _ in range(100):
            try:
                reply = await relay.call("/worker/execute", body, **headers)
            except (aiohttp.ClientError, TimeoutError):  # no answer: it may have been accepted, so it is asked again
                continue
            if reply.status == 200:
                task.accepted += 1
                return task
            assert reply.status in (429, 503), (reply.status, reply.raw)
            await asyncio.sleep(random.uniform(0.1, 0.3))
        raise AssertionError(f"{task_id} was never accepted")

    async def publish_many(self, task_ids: Iterable[str], service: str = "plain", **more: Any) -> None:
        """Many, a few at a time."""
        if self.relay is None:
            await self.start_relay()
        gate = asyncio.Semaphore(16)

        async def one(task_id: str) -> None:
            async with gate:
                await self.publish(task_id, service, **more)

        async with asyncio.TaskGroup() as group:
            for task_id in task_ids:
                group.create_task(one(task_id))

    async def events(self, task_id: str) -> list[dict[str, Any]]:
        """The task's events so far, each with its stream id."""
        entries = await self.redis.xrange(keys.events(task_id))
        return [{"id": entry_id, **msgspec.json.decode(fields["data"])} for entry_id, fields in entries]

    async def seen(self, task_id: str, kind: str, *, attempt: int = 0, within_s: float = 10) -> dict[str, Any]:
        """The first event of that type, of any attempt or of one."""

        async def look() -> dict[str, Any] | None:
            found = [e for e in await self.events(task_id) if e["type"] == kind and attempt in (0, e["attempt"])]
            return found[0] if found else None

        return await wait_until(look, description=f"`{kind}` of {task_id}", within_s=within_s)

    async def ended(self, task_id: str, within_s: float = 15) -> dict[str, Any]:
        """The terminal event."""

        async def look() -> dict[str, Any] | None:
            events = await self.events(task_id)
            return next((e for e in events if terminal(e)), None)

        return await wait_until(look, description=f"the end of {task_id}", within_s=within_s)

    def calls(self, task_id: str) -> int:
        """How often the model was called for a task."""
        return sum(call.user == self.published[task_id].user_tag for call in self.llm.calls)

    # --- the end --------------------------------------------------------------------------------------------------

    async def sql(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """Rows of one statement."""
        connection = await asyncpg.connect(self.database_url, timeout=_LOOK_S)
        try:
            return list(await connection.fetch(statement, *args, timeout=_LOOK_S))
        finally:
            await connection.close(timeout=_LOOK_S)

    async def row(self, task_id: str) -> asyncpg.Record:
        """The task's row."""
        [row] = await self.sql("SELECT * FROM qstreamd.tasks WHERE task_id = $1", task_id)
        return row

    async def quiescent(self, within_s: float = 30) -> None:
        """Every published task has ended, and nothing of it lies in a work stream."""

        async def look() -> str:
            states = await self.sql("SELECT task_id, state FROM qstreamd.tasks")
            ended = {row["task_id"] for row in states if row["state"] in TERMINAL}
            open_tasks = sorted(set(self.published) - ended)
            if open_tasks:
                known = {row["task_id"]: row["state"] for row in states}
                return f"{len(open_tasks)} tasks have not ended: {[(t, known.get(t)) for t in open_tasks[:5]]}"
            for queue in {task.queue for task in self.published.values()}:
                names = keys.queue_keys(queue)
                left = [await self.redis.xlen(names.tasks), await self.redis.xlen(names.ready)]
                left.append(await self.redis.zcard(names.retry))
                if any(left):
                    return f"{queue} holds {left} in tasks, ready, retry"
            taken = await places_taken(self.redis)  # of the dead, until their leases run out
            return f"places are taken: {taken}" if taken else ""

        problem = ""

        async def quiet() -> bool:
            nonlocal problem
            problem = await look()
            return not problem

        try:
            await wait_until(quiet, description="all tasks have ended", within_s=within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {problem}") from None

    async def history(self) -> History:
        """All that happened, for the checker."""
        return await History.read(self)

    async def check(self, within_s: float = 30, **allowed: Any) -> History:
        """Wait until all is quiet, then hold the history to the invariants; `allowed` as in `History.violations`."""
        await self.quiescent(within_s)
        history = await self.history()
        found = history.violations(**allowed)
        assert not found, "\n".join(found[:40])
        return history


def tag(user_id: str) -> str:
    """How the provider's log names a user."""
    return hashlib.sha256(f"qstreamd user {user_id}".encode()).hexdigest()[:32]


def terminal(event: Mapping[str, Any]) -> bool:
    """Whether nothing may follow it."""
    return event["type"] == "done" or (event["type"] == "error" and not event["retryable"])


def said(asked: Asked) -> str | None:
    """The model's words: as many tokens as the prompt asks for, each naming its task and place."""
    match = _ASKED.search(asked.prompt)
    if match is None:
        return None
    if asked.json_output:
        return msgspec.json.encode({"id": match[2]}).decode()
    return text_of(match[2], int(match[1]))


def text_of(task_id: str, tokens: int) -> str:
    """The whole answer to a task."""
    return "".join(f" {task_id[-4:]}.{at}" for at in range(tokens))


def subset(names: Sequence[str], count: int, seed: int) -> list[str]:
    """A sample that is the same for the same seed."""
    return random.Random(seed).sample(list(names), min(count, len(names)))
