"""What the processes ask of Redis, tried with keys of our own: blocking read, Lua, XAUTOCLAIM, channel, rights.

Writes only keys of a queue and a task made up for this run; each key expires, and is deleted afterwards.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Final

from redis import exceptions as rx
from redis.asyncio import Redis

from daemon.admin.checkup.finding import round_trips
from daemon.admin.trial.result import Result, fails, flawed, works
from daemon.config import RedisSettings
from daemon.domain.errors import ConfigError, RedisAway
from daemon.ports import Clock
from daemon.redis_client import keys
from daemon.redis_client.connection import connect, node_of

LIFE_S: Final = 60
BLOCK_MS: Final = 400
WAKE_MS: Final = 3000
_GROUP: Final = "daemon"
_AWAY: Final = (rx.RedisError, OSError, RedisAway)
_FIELDS: Final = {"task": "{}"}
_CURE: Final = "is it running? Are address, password and firewall right? It is REDIS_URL that names it"
#: a user who may do all that relay, daemon and gateway do
RIGHTS: Final = (
    "ACL SETUSER NAME ~bp:queue:* ~{bp:queue:* ~task:* ~{task:* ~{guard}* ~qstreamd:* &qstreamd:control "
    "+@read +@write +@stream +@scripting +@pubsub +@connection +info +time"
)


class Probe:
    """One run against one server (or cluster)."""

    def __init__(self, client: Redis, environment: str, clock: Clock) -> None:
        self._client: Any = client  # redis-py types a reply as a union of what any server may say
        self._environment = environment
        self._clock = clock
        nonce = secrets.token_hex(4)
        self._queue = keys.queue_keys(f"q_try_{nonce}")
        self._task = keys.events(f"try-{nonce}")
        self._state = keys.events_state(f"try-{nonce}")
        self._permits = keys.user_permits(f"try-{nonce}")
        self._all = [self._queue.tasks, self._queue.counter, self._queue.waiting, self._queue.held, self._task,
                     self._state, self._permits]  # fmt: skip

    async def run(self) -> AsyncGenerator[Result, None]:
        """Results as they come. If the server does not answer, that is the last one."""
        reached = await self._reach()
        yield reached
        if reached.state == "fails":
            return
        foreign = await self._foreign()
        if foreign is not None:
            yield foreign
            return
        try:
            for what, probe in (
                ("rights", self._rights), ("blocking read", self._blocking), ("Lua", self._lua),
                ("XAUTOCLAIM", self._reclaim), ("channel", self._channel),
            ):  # fmt: skip
                yield await self._guarded(what, probe)
        finally:
            with suppress(*_AWAY):
                for key in self._all:
                    await self._client.delete(key)

    async def _foreign(self) -> Result | None:
        """The environment that owns this Redis, if it is another one: then nothing is written."""
        try:
            owner = await self._client.get(keys.ENVIRONMENT)
        except _AWAY:
            return None
        if owner in {None, self._environment.encode()}:
            return None
        text = f"this Redis belongs to NODE_ENV={owner.decode(errors='replace')[:40]}, not to {self._environment}"
        return fails("redis", "environment", text, "name another Redis in REDIS_URL, or set NODE_ENV", "environment")

    async def _guarded(self, what: str, probe: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await probe()
        except rx.NoPermissionError as error:
            return fails("redis", what, f"this user may not do it: {_said(error)}", RIGHTS, "rights")
        except rx.ResponseError as error:
            cure = "use a server with Redis 7's commands"
            return fails("redis", what, f"the server refuses it: {_said(error)}", cure, "command")
        except (*_AWAY, ConfigError) as error:
            return fails("redis", what, f"the connection failed: {type(error).__name__}", _CURE, "network")

    async def _reach(self) -> Result:
        try:
            median_ms = await round_trips(self._clock, self._client.ping, 5)
        except (rx.AuthenticationError, rx.AuthenticationWrongNumberOfArgsError):
            return fails("redis", "connection", "it refuses user or password", "put right what stands before the @ in "
                         "REDIS_URL", "key")  # fmt: skip
        except rx.NoPermissionError as error:
            return fails("redis", "connection", f"this user may not do it: {_said(error)}", RIGHTS, "rights")
        except rx.ResponseError as error:
            key = any(word in str(error) for word in ("WRONGPASS", "NOAUTH", "invalid username", "invalid password"))
            kind = "key" if key else "command"
            return fails("redis", "connection", f"it refuses: {_said(error)}", _CURE, kind)
        except (*_AWAY, ConfigError) as error:
            tls = "REDIS_URL with rediss:// is for TLS, redis:// for none; managed servers mostly want TLS. "
            text = f"it can't be reached ({_why(error)})"
            return fails("redis", "connection", text, tls + _CURE, "network")
        return works("redis", "connection", f"round trip {median_ms:.1f} ms")

    async def _rights(self) -> Result:
        """Every kind of command on every kind of key; all that is refused is named together."""
        q, c = self._queue, self._client
        tried: tuple[tuple[str, Callable[[], Awaitable[Any]]], ...] = (
            ("SET, INCR on bp:queue:*", lambda: c.set(q.counter, 1, ex=LIFE_S)),
            ("INCR on bp:queue:*", lambda: c.incr(q.counter)),
            ("ZADD on {bp:queue:*", lambda: c.zadd(q.waiting, {"t": 1})),
            ("ZRANGE on {bp:queue:*", lambda: c.zrange(q.waiting, 0, -1)),
            ("HSET on {bp:queue:*", lambda: c.hset(q.held, "t", "x")),
            ("HGETALL on {bp:queue:*", lambda: c.hgetall(q.held)),
            ("XADD on {bp:queue:*", lambda: c.xadd(q.tasks, _FIELDS)),
            ("XADD on task:*", lambda: c.xadd(self._task, _FIELDS)),
            ("HSET on {task:*", lambda: c.hset(self._state, "seq", "1")),
            ("ZADD on {guard}*", lambda: c.zadd(self._permits, {"t": 1})),
            ("GET on qstreamd:*", lambda: c.get(keys.ENVIRONMENT)),
            ("XRANGE on task:*", lambda: c.xrange(self._task)),
            ("EXPIRE", self._expire),
            ("TIME", lambda: _on_node(c, q.tasks, "TIME")),
            ("CLIENT ID", lambda: _on_node(c, q.tasks, "CLIENT", "ID")),
            ("CLIENT UNBLOCK", lambda: _on_node(c, q.tasks, "CLIENT", "UNBLOCK", "0")),
        )
        refused = [name for name, ask in tried if not await _allowed(ask)]
        if refused:
            return fails("redis", "rights", f"this user may not: {', '.join(refused)}", RIGHTS, "rights")
        return works("redis", "rights", f"{len(tried)} kinds of commands on all our kinds of keys")

    async def _expire(self) -> None:
        for key in self._all:
            await self._client.expire(key, LIFE_S)

    async def _blocking(self) -> Result:
        """An empty read must wait, and one that waits must wake at once."""
        began = self._clock.monotonic()
        await self._client.xread({keys.BLOCK_PROBE: "0"}, block=BLOCK_MS, count=1)
        waited_ms = (self._clock.monotonic() - began) * 1000
        if waited_ms < BLOCK_MS / 2:
            cure = "set QSTREAMD_REDIS_PROFILE=metered: then readers pause instead (docs/guides/metered-redis.md)"
            return flawed("redis", "blocking read", f"a read that should wait {BLOCK_MS} ms came back after "
                          f"{waited_ms:.0f} ms", cure, "blocking")  # fmt: skip
        reading, adding = self._read_new(), self._add_soon()
        (found, woke), added = await asyncio.gather(reading, adding)
        woke_ms = (woke - added) * 1000
        if not found:
            cure = "another server: on this one no task starts before a read has run out"
            return fails("redis", "blocking read", "a waiting read did not see what was added", cure, "blocking")
        return works("redis", "blocking read", f"waits, and wakes {woke_ms:.0f} ms after an XADD")

    async def _read_new(self) -> tuple[Any, float]:
        """What a waiting read saw, and when."""
        found = await self._client.xread({self._task: "$"}, block=WAKE_MS, count=1)
        return found, self._clock.monotonic()

    async def _add_soon(self) -> float:
        """When it was added."""
        await asyncio.sleep(0.2)
        added = self._clock.monotonic()
        await self._client.xadd(self._task, _FIELDS)
        return added

    async def _lua(self) -> Result:
        script = "redis.call('INCR', KEYS[1]); redis.call('EXPIRE', KEYS[1], ARGV[1]); return redis.call('TIME')[1]"
        counter = self._queue.counter
        await self._client.eval(script, 1, counter, str(LIFE_S))
        node = await node_of(self._client, counter)
        sha = await node.script_load(script)
        await self._client.evalsha(sha, 1, counter, str(LIFE_S))
        return works("redis", "Lua", "EVAL, SCRIPT LOAD and EVALSHA, with TIME inside")

    async def _reclaim(self) -> Result:
        c, stream = self._client, self._queue.tasks
        with suppress(rx.ResponseError):  # BUSYGROUP: `_rights` made none, another try may have
            await c.xgroup_create(stream, _GROUP, id="0", mkstream=True)
        await c.xadd(stream, _FIELDS)
        await c.expire(stream, LIFE_S)
        await c.xreadgroup(_GROUP, "try-dead", {stream: ">"}, count=10)
        answer = await c.xautoclaim(stream, _GROUP, "try-alive", 0, "0-0", count=10, justid=True)
        claimed = answer[1] if len(answer) > 1 and isinstance(answer[1], list) else answer
        if not claimed:
            return fails("redis", "XAUTOCLAIM", "it hands nothing over: the work of a dead daemon would be lost",
                         "use a server with Redis 7's streams", "command")  # fmt: skip
        await c.xack(stream, _GROUP, *claimed)
        await c.xdel(stream, *claimed)
        return works("redis", "XAUTOCLAIM", f"hands {len(claimed)} entries of a dead consumer over")

    async def _channel(self) -> Result:
        """SUBSCRIBE and PUBLISH as `queues pause` needs them; daemons pass over a queue that they do not have."""
        async with aclosing(self._client.pubsub()) as feed:
            await feed.subscribe(keys.CONTROL_CHANNEL)
            name = self._queue.counter.removeprefix("bp:queue:")
            await self._client.publish(keys.CONTROL_CHANNEL, name)
            deadline = self._clock.monotonic() + WAKE_MS / 1000
            while self._clock.monotonic() < deadline:
                heard = await feed.get_message(ignore_subscribe_messages=True, timeout=0.5)
                if heard is not None and heard["data"] in (name, name.encode()):
                    return works("redis", "channel", f"{keys.CONTROL_CHANNEL} is heard")
        return flawed("redis", "channel", f"what is published on {keys.CONTROL_CHANNEL} is not heard",
                      "orders such as `queues pause` take effect at the next look only", "command")  # fmt: skip


async def probe(settings: RedisSettings, environment: str, clock: Clock) -> AsyncGenerator[Result, None]:
    """Results as they come."""
    client = connect(settings, size=4, name="qstreamd-try", retries=0)
    try:
        async with aclosing(Probe(client, environment, clock).run()) as found:
            async for result in found:
                yield result
    finally:
        await client.aclose()


async def _allowed(ask: Callable[[], Awaitable[Any]]) -> bool:
    """False when the server forbids it. An error for its arguments (CLIENT UNBLOCK of no client) is no refusal."""
    try:
        await ask()
    except rx.NoPermissionError:
        return False
    except rx.ResponseError as error:
        return not any(word in str(error).lower() for word in ("noperm", "no permissions", "unknown command"))
    return True


async def _on_node(client: Redis, key: str, *command: str) -> Any:
    node: Any = await node_of(client, key)
    return await node.execute_command(*command)


def _said(error: Exception) -> str:
    return str(error)[:160]


def _why(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(error).__name__}: {str(cause)[:120]}"
