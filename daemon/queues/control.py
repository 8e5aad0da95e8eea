"""An operator's word on a queue: paused, sized, limited. Kept in the queue's control hash, told on one channel.

The hash is the truth and every reader looks at it again now and then; the channel only makes that soon. `Controls`
reads and writes, `ControlFeed` listens on a connection of its own, which costs nothing while nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from daemon.config import RedisSettings
from daemon.domain.queues import is_paused
from daemon.ports import Clock
from daemon.redis_client import keys
from daemon.redis_client.connection import connect_blocking, translated
from daemon.redis_client.scripts import Scripts

#: what may be set, as it is named on the wire
FIELDS: Final = ("paused", "parallelism", "maxSize", "globalParallelism")


@dataclass(frozen=True, slots=True)
class Control:
    """What is in force over settings and services file; None: nothing was said."""

    paused: bool = False
    parallelism: int | None = None  #: slots of one process
    max_size: int | None = None  #: tasks that may wait to start; 0: nothing is accepted
    global_parallelism: int | None = None  #: attempts at once over all processes
    who: str = ""
    why: str = ""
    at: float | None = None  #: unix seconds of the last change


class Controls:
    """The control hashes."""

    def __init__(self, scripts: Scripts, clock: Clock) -> None:
        self._scripts = scripts
        self._clock = clock

    async def read(self, queues: Sequence[str]) -> dict[str, Control]:
        """Each queue's control; one flush."""
        with translated():
            pipe = self._scripts.client.pipeline(transaction=False)
            for queue in queues:
                pipe.hgetall(keys.queue_keys(queue).control)
            replies: Any = await pipe.execute()
        return {queue: parse(reply) for queue, reply in zip(queues, replies, strict=True)}

    async def change(self, queues: Iterable[str], fields: Mapping[str, int | None], *, who: str, why: str) -> None:
        """Set `fields` (names of `FIELDS`; None takes one back) and tell every daemon; one flush, may be repeated."""
        with translated():
            pipe = self._scripts.client.pipeline(transaction=False)
            for queue in queues:
                key = keys.queue_keys(queue).control
                unset = [name for name, value in fields.items() if value is None]
                said: dict[Any, Any] = {name: str(value) for name, value in fields.items() if value is not None}
                pipe.hset(key, mapping=said | {"who": who, "why": why, "at": f"{self._clock.time():.3f}"})
                if unset:
                    pipe.hdel(key, *unset)
                pipe.publish(keys.CONTROL_CHANNEL, queue)
            await pipe.execute()


def parse(reply: Mapping[bytes, bytes]) -> Control:
    """A control hash as anybody may have written it; what can't be read says nothing."""
    said = {name.decode(): value.decode("utf-8", "replace") for name, value in reply.items()}
    at = said.get("at", "")
    return Control(
        paused=is_paused(reply.get(b"paused")),
        parallelism=_number(said.get("parallelism"), least=1),
        max_size=_number(said.get("maxSize"), least=0),
        global_parallelism=_number(said.get("globalParallelism"), least=1),
        who=said.get("who", ""),
        why=said.get("why", ""),
        at=float(at) if at.replace(".", "", 1).isdecimal() else None,
    )


def _number(text: str | None, least: int) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) >= least else None


class ControlFeed:
    """Hears which queue's control has changed."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._client: Redis | None = None
        self._heard: PubSub | None = None

    async def listen(self) -> None:
        """From when this returns nothing that is told is missed. Raises `RedisAway`; repeatable."""
        if self._heard is None:
            self._client = connect_blocking(self._settings, name="qstreamd-control")
            heard = self._client.pubsub(ignore_subscribe_messages=True)
            with translated():
                await heard.subscribe(keys.CONTROL_CHANNEL)
                await heard.get_message(timeout=self._settings.command_timeout_s)
            self._heard = heard

    async def next(self, timeout_s: float) -> str | None:
        """The queue that has changed, or None after `timeout_s`. Raises `RedisAway`: then listen again, and look."""
        assert self._heard is not None
        with translated():
            message = await self._heard.get_message(timeout=timeout_s)
        if message is None or message["type"] != "message":
            return None
        data = message["data"]
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)

    async def close(self) -> None:
        """Give the connection back. Repeatable."""
        heard, self._heard = self._heard, None
        client, self._client = self._client, None
        if heard is not None:
            await heard.aclose()  # type: ignore[no-untyped-call]
        if client is not None:
            await client.aclose()
