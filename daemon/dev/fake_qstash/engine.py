"""A message's way: admitted, waiting, attempted, retried, answered to its callbacks, delivered or dead.

One task a message; everything it waits for (time, its queue, its flow-control key) is one parked future, so the engine
knows when all is at rest. Deliveries go through `sender`; what is remembered lies in `records`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from daemon.dev.fake_qstash.clock import Clock
from daemon.dev.fake_qstash.delays import asked_delay_s, default_delay_s
from daemon.dev.fake_qstash.gate import Gate
from daemon.dev.fake_qstash.message import Answer, Message, State, grouped
from daemon.dev.fake_qstash.mischief import NONE, Mischief
from daemon.dev.fake_qstash.options import Headers, Options, Refused, require_loopback
from daemon.dev.fake_qstash.records import Records
from daemon.dev.fake_qstash.sender import Sender
from daemon.dev.fake_qstash.signing import random_id

_OUT_OF_ORDER_S_MAX: Final = 60.0  # a message held back for a later one goes after that long anyway
_NOT_REPEATED: Final = frozenset(
    f"upstash-{name}"
    for name in ("delay", "not-before", "deduplication-id", "content-based-deduplication", "fake-mischief")
)


class _Cancelled(Exception):
    """The publisher cancelled this message while it waited."""


class Engine:
    """All messages on their way. `wall` is the clock of the outside world (unix seconds)."""

    def __init__(
        self,
        *,
        clock: Clock,
        sender: Sender,
        records: Records,
        wall: Callable[[], float],
        mischief: Mischief,
        live_max: int,
    ) -> None:
        self.clock = clock
        self.records = records
        self.live: dict[str, Message] = {}
        self.queues: dict[str, Gate] = {}
        self.flows: dict[str, Gate] = {}
        self._sender = sender
        self._wall = wall
        self._mischief = mischief
        self._mischief_left: int | None = None
        self._live_max = live_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._crash: BaseException | None = None

    # --- for publishers ------------------------------------------------------------------------------------------

    def publish(
        self,
        url: str,
        body: bytes,
        options: Options,
        *,
        caller_ip: str,
        queue: str | None = None,
        topic: str | None = None,
        endpoint: str | None = None,
        schedule_id: str | None = None,
        source_id: str | None = None,
    ) -> tuple[str, bool]:
        """The message's id, and whether it is a duplicate (then the id is the first one's). Raises Refused."""
        require_loopback(url)
        for headers in (options.callback_headers, options.failure_callback_headers):
            _callback_options(headers)  # a mistake there is the publisher's, so it is told now
        if len(self.live) >= self._live_max and source_id is None:
            raise Refused(f"the fake QStash holds {self._live_max} messages already", 503)
        now, message_id = self.clock.now(), random_id("msg_")
        if key := options.deduplication_key(url, body):
            first = self.records.first_of(f"{key} {url if topic else ''}", message_id, now)
            if first != message_id:
                return first, True
        wait_s = options.delay_s
        if options.not_before is not None:
            wait_s = max(0.0, options.not_before - self._wall())
        mischief = options.mischief or self._next_mischief()
        message = Message(
            id=message_id,
            url=url,
            body=body,
            options=options,
            mischief=mischief,
            caller_ip=caller_ip,
            created_at=now,
            not_before=now + wait_s,
            queue=queue,
            topic=topic,
            endpoint=endpoint,
            schedule_id=schedule_id,
            source_id=source_id,
        )
        if queue is not None:
            self.queue(queue)
        self.records.note(message, State.CREATED, now)
        self.live[message_id] = message
        self._start(message)
        return message_id, False

    def queue(self, name: str) -> Gate:
        """The queue of this name, made if absent."""
        return self.queues.setdefault(name, Gate(self.clock, parallelism=1))

    def cancel(self, message_id: str) -> bool:
        """Can the message still be stopped? At once if it waits; one being delivered is not retried."""
        message = self.live.get(message_id)
        if message is None or message.state in (State.DELIVERED, State.FAILED):
            return False
        message.cancelled = True
        self.records.note(message, State.CANCEL_REQUESTED, self.clock.now())
        if message.parked is not None:
            _wake(message.parked)
        return True

    def retry_dead(self, dlq_id: str, changes: tuple[tuple[str, str], ...], caller_ip: str) -> str:
        """The id of a new message like the dead one, which leaves the DLQ; `changes` win. Raises KeyError."""
        dead = self.records.dead[dlq_id].message
        changed = {name.lower() for name, _ in changes} | _NOT_REPEATED
        headers = tuple(pair for pair in dead.options.headers if pair[0].lower() not in changed) + changes
        message_id, _ = self.publish(
            dead.url,
            dead.body,
            Options.parse(headers),
            caller_ip=caller_ip,
            queue=dead.queue,
            topic=dead.topic,
            endpoint=dead.endpoint,
            schedule_id=dead.schedule_id,
        )
        del self.records.dead[dlq_id]
        return message_id

    def misbehave(self, mischief: Mischief, messages: int | None) -> None:
        """The next `messages` messages (None: all from now on) that bring no mischief of their own get this one."""
        self._mischief, self._mischief_left = mischief, messages

    # --- rest and stop --------------------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Every message that is left waits for time, a turn or a pause to end."""
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
            if message.mischief.out_of_order:
                await self._let_a_later_one_pass(message)
            if message.queue is None:
                await self._attempts(message)
            else:
                async with self._turn(message, self.queue(message.queue)):
                    await self._attempts(message)
        except _Cancelled:
            self.records.note(message, State.CANCELED, self.clock.now())
        finally:
            self._end(message)

    def _end(self, message: Message) -> None:
        earlier = True
        for other in self.live.values():  # in the order of their publishing
            earlier = earlier and other is not message
            if earlier and other.url == message.url and other.overtaken is not None:
                _wake(other.overtaken)
        self.live.pop(message.id, None)
        message.ended = True
        for watcher in message.watchers:
            _wake(watcher)
        self._changed.set()

    async def _attempts(self, message: Message) -> None:
        callbacks: list[Message] = []
        while True:
            answer = await self._attempt(message)
            callbacks += self._call_back(message, answer)
            if answer.ok:
                self._note(message, State.DELIVERED, answer)
                for _ in range(message.mischief.twice):
                    await self._sender.send(message)
                break
            self._note(message, State.ERROR, answer)
            if message.cancelled:
                raise _Cancelled
            if answer.final or message.retried >= message.options.retries:
                letter = self.records.bury(message, answer, self.clock.now())
                self._note(message, State.FAILED, answer)
                callbacks += self._call_back(message, answer, dlq_id=letter.id)
                break
            due = self.clock.now() + self._retry_delay_s(message, answer)
            message.retried += 1
            self.records.note(message, State.RETRY, self.clock.now(), nextDeliveryTime=round(due * 1000))
            await self._wait_until(message, due)
        if message.queue is not None:  # the next of the queue waits for this one's callbacks, too
            for callback in callbacks:
                if not callback.ended:
                    watcher: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                    callback.watchers.append(watcher)
                    await self._park(message, watcher)

    async def _attempt(self, message: Message) -> Answer:
        async with AsyncExitStack() as held:
            if (limit := message.options.flow) is not None:
                gate = self.flows.setdefault(limit.key, Gate(self.clock))
                gate.limit(parallelism=limit.parallelism, rate=limit.rate, period_s=limit.period_s)
                await held.enter_async_context(self._turn(message, gate))
            self.records.note(message, State.ACTIVE, self.clock.now())
            copies = message.mischief.together if message.retried == 0 else 0
            answers = await asyncio.gather(*(self._sender.send(message) for _ in range(1 + copies)))
        return answers[0]

    def _retry_delay_s(self, message: Message, answer: Answer) -> float:
        asked = asked_delay_s(answer.lower_headers(), self._wall())
        if asked is not None:
            return asked
        if (expression := message.options.retry_delay) is not None:
            try:
                return expression.seconds(message.retried)
            except ValueError:
                pass  # it had a value for the first retry and has none for this one
        return default_delay_s(message.retried + 1)

    def _call_back(self, message: Message, answer: Answer, *, dlq_id: str | None = None) -> list[Message]:
        options = message.options
        url = options.callback if dlq_id is None else options.failure_callback
        headers = options.callback_headers if dlq_id is None else options.failure_callback_headers
        if url is None:
            return []
        body = json.dumps(message.callback_json(answer, dlq_id)).encode()
        settings = _callback_options(headers)
        message_id, duplicate = self.publish(url, body, settings, caller_ip=message.caller_ip, source_id=message.id)
        return [] if duplicate else [self.live[message_id]]

    def _note(self, message: Message, state: State, answer: Answer) -> None:
        failed = state is not State.DELIVERED
        self.records.note(
            message,
            state,
            self.clock.now(),
            responseStatus=answer.status or None,
            responseHeader=grouped(answer.headers) if failed else None,
            responseBody=answer.body.decode("utf-8", "replace") if failed else None,
            error=answer.error,
        )

    def _next_mischief(self) -> Mischief:
        if self._mischief_left is None:
            return self._mischief
        if self._mischief_left <= 0:
            return NONE
        self._mischief_left -= 1
        return self._mischief

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def _park(self, message: Message, future: asyncio.Future[object]) -> None:
        message.parked = future
        self._changed.set()
        try:
            await future
        finally:
            message.parked = None
        if message.cancelled:
            raise _Cancelled

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

    async def _let_a_later_one_pass(self, message: Message) -> None:
        """Wait until a message that was published after this one has ended."""
        message.overtaken = self.clock.timer(self.clock.now() + _OUT_OF_ORDER_S_MAX)
        await self._park(message, message.overtaken)


def _callback_options(headers: Headers) -> Options:
    options = Options.parse((("Content-Type", "application/json"), *headers))
    return replace(options, callback=None, failure_callback=None)


def _wake(future: asyncio.Future[object]) -> None:
    if not future.done():
        future.set_result(None)
