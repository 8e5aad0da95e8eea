"""A message's way: admitted, waiting, attempted, retried, delivered or dead with a failure callback.

One task a message; everything it waits for (time, its queue, its flow-control key) is one parked future, so the engine
knows when all is at rest. Deliveries go through `sender`. What is remembered is bounded.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from daemon.dev.fake_qstash.clock import Clock
from daemon.dev.fake_qstash.delays import asked_delay_s, default_delay_s
from daemon.dev.fake_qstash.gate import Gate
from daemon.dev.fake_qstash.message import Answer, DeadLetter, Message
from daemon.dev.fake_qstash.mischief import NONE, Mischief
from daemon.dev.fake_qstash.options import Headers, Options, Refused, require_loopback
from daemon.dev.fake_qstash.sender import Sender
from daemon.dev.fake_qstash.signing import random_id

_OUT_OF_ORDER_S_MAX: Final = 60.0  # a message held back for a later one goes after that long anyway
_DEDUPLICATION_WINDOW_S: Final = 600.0


class Engine:
    """All messages on their way."""

    def __init__(self, *, clock: Clock, sender: Sender, mischief: Mischief, live_max: int, records_max: int) -> None:
        self.clock = clock
        self.live: dict[str, Message] = {}
        self.dead: deque[DeadLetter] = deque(maxlen=records_max)
        self._queues: dict[str, Gate] = {}
        self._flows: dict[str, Gate] = {}
        self._seen: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._sender = sender
        self._mischief = mischief
        self._mischief_left: int | None = None
        self._live_max = live_max
        self._records_max = records_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._crash: BaseException | None = None

    # --- for publishers ------------------------------------------------------------------------------------------

    def publish(
        self, url: str, body: bytes, options: Options, *, caller_ip: str, queue: str | None = None
    ) -> tuple[str, bool]:
        """The message's id, and whether it is a duplicate (then the id is the first one's). Raises Refused."""
        require_loopback(url)
        _callback_options(options.failure_callback_headers)  # a mistake there is the publisher's, so it is told now
        if len(self.live) >= self._live_max:
            raise Refused(f"the fake QStash holds {self._live_max} messages already", 503)
        now, message_id = self.clock.now(), random_id("msg_")
        if key := options.deduplication_id:
            first = self._first_of(key, message_id, now)
            if first != message_id:
                return first, True
        wait_s = options.delay_s if options.not_before is None else max(0.0, options.not_before - time.time())
        mischief = options.mischief or self._next_mischief()
        self._start(Message(message_id, url, body, options, mischief, caller_ip, now, now + wait_s, queue))
        return message_id, False

    def misbehave(self, mischief: Mischief, messages: int | None) -> None:
        """The next `messages` messages (None: all from now on) that bring no mischief of their own get this one."""
        self._mischief, self._mischief_left = mischief, messages

    def _first_of(self, key: str, message_id: str, now: float) -> str:
        """The id of the first message with this key within the last 10 minutes: this one's, or an older one's."""
        while self._seen and (next(iter(self._seen.values()))[1] <= now or len(self._seen) >= self._records_max):
            self._seen.popitem(last=False)
        return self._seen.setdefault(key, (message_id, now + _DEDUPLICATION_WINDOW_S))[0]

    def _next_mischief(self) -> Mischief:
        if self._mischief_left is None:
            return self._mischief
        if self._mischief_left <= 0:
            return NONE
        self._mischief_left -= 1
        return self._mischief

    # --- rest and stop --------------------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Every message that is left waits for time or for its turn."""
        return all(message.at_rest for message in self.live.values())

    async def until(self, fact: Callable[[], bool]) -> None:
        """Wait until `fact` holds; looked at whenever a message moves. Raises what crashed inside, if anything did."""
        while True:
            if self._crash is not None:
                raise RuntimeError("the fake QStash is broken") from self._crash
            if fact():
                return
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """Drop everything. May be called twice."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.clock.close()

    # --- a message's way -------------------------------------------------------------------------------------------

    def _start(self, message: Message) -> None:
        self.live[message.id] = message
        task = asyncio.create_task(self._run(message), name=f"fake-qstash {message.id}")
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = error
        self._changed.set()

    async def _run(self, message: Message) -> None:
        try:
            await self._wait_until(message, message.not_before + message.mischief.late_s)
            if message.mischief.out_of_order:  # until one that was published later has ended
                message.overtaken = self.clock.timer(self.clock.now() + _OUT_OF_ORDER_S_MAX)
                await self._park(message, message.overtaken)
            async with AsyncExitStack() as held:
                if message.queue is not None:
                    gate = self._queues.setdefault(message.queue, Gate(self.clock, parallelism=1))
                    await held.enter_async_context(self._turn(message, gate))
                await self._attempts(message)
        finally:
            self._end(message)

    def _end(self, message: Message) -> None:
        for other in self.live.values():  # in the order of their publishing
            if other is message:
                break
            if other.url == message.url and other.overtaken is not None and not other.overtaken.done():
                other.overtaken.set_result(None)
        self.live.pop(message.id, None)
        self._changed.set()

    async def _attempts(self, message: Message) -> None:
        while not (answer := await self._attempt(message)).ok:
            if answer.final or message.retried >= message.options.retries:
                self._dead_letter(message, answer)
                return
            due = self.clock.now() + self._retry_delay_s(message, answer)
            message.retried += 1
            await self._wait_until(message, due)
        for _ in range(message.mischief.twice):
            await self._sender.send(message)

    async def _attempt(self, message: Message) -> Answer:
        async with AsyncExitStack() as held:
            if (limit := message.options.flow) is not None:
                gate = self._flows.setdefault(limit.key, Gate(self.clock))
                gate.limit(parallelism=limit.parallelism, rate=limit.rate, period_s=limit.period_s)
                await held.enter_async_context(self._turn(message, gate))
            copies = message.mischief.together if message.retried == 0 else 0
            answers = await asyncio.gather(*(self._sender.send(message) for _ in range(1 + copies)))
        return answers[0]

    def _retry_delay_s(self, message: Message, answer: Answer) -> float:
        asked = asked_delay_s(answer.lower_headers(), time.time())
        if asked is not None:
            return asked
        if (expression := message.options.retry_delay) is not None:
            try:
                return expression.seconds(message.retried)
            except ValueError:
                pass  # it had a value for the first retry and has none for this one
        return default_delay_s(message.retried + 1)

    def _dead_letter(self, message: Message, answer: Answer) -> None:
        """Into the dead letters, and a failure callback, which is a message of its own that no limit holds up."""
        now = self.clock.now()
        letter = DeadLetter(random_id(f"{round(now * 1000)}-", 6), message, answer)
        self.dead.append(letter)
        if (url := message.options.failure_callback) is not None:
            body = json.dumps(message.callback_json(answer, letter.id)).encode()
            options = _callback_options(message.options.failure_callback_headers)
            mischief = options.mischief or self._next_mischief()
            self._start(Message(random_id("msg_"), url, body, options, mischief, message.caller_ip, now, now))

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def _park(self, message: Message, future: asyncio.Future[object]) -> None:
        message.parked = future
        self._changed.set()
        try:
            await future
        finally:
            message.parked = None

    async def _wait_until(self, message: Message, when: float) -> None:
        if when > self.clock.now():
            await self._park(message, self.clock.timer(when))

    @asynccontextmanager
    async def _turn(self, message: Message, gate: Gate) -> AsyncIterator[None]:
        ticket = gate.draw()
        try:
            if not ticket.done():
                await self._park(message, ticket)
            yield
        finally:
            gate.leave(ticket)


def _callback_options(headers: Headers) -> Options:
    options = Options.parse((("Content-Type", "application/json"), *headers))
    return replace(options, failure_callback=None)
