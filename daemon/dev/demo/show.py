"""The course of the demo: start, ask, watch, judge; then end, or stay until somebody presses Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import aiohttp
from rich.console import Console
from rich.text import Text

from daemon.config import Settings
from daemon.dev.demo import closing, staying
from daemon.dev.demo.orders import PublishRefused, orders, publish
from daemon.dev.demo.parts import PartFailed
from daemon.dev.demo.plain import PlainScreen
from daemon.dev.demo.real import Real
from daemon.dev.demo.screen import LiveScreen, Screen
from daemon.dev.demo.watching import Watched
from daemon.dev.demo.world import InUse, World
from daemon.dev.embedded import EmbeddedError

Result = TypeVar("Result")

LOOK_S: Final = 0.05  #: as often as the daemon flushes deltas
END_S: Final = 90.0  #: everything takes some 15 s; what takes so long has failed
TRY: Final = "python -m daemon try says what stands between this host and the provider"
FAULT: Final = ("gpt-6-luna", "error-mid")  #: only the letter asks this model; its first answer breaks off with a 500


@dataclass(frozen=True, slots=True)
class Choice:
    """How to show it. `live`: redraw a terminal; `json`: one object on stdout, all else on stderr.

    `real`: one task on a real provider instead of eight on the stand-in.
    """

    live: bool
    json: bool = False
    keep: bool = False
    real: Real | None = None


class Trouble(Exception):
    """The demo can't go on: what happened, the last words of whoever it happened to, and what to do about it."""

    def __init__(self, what: str, words: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.words = words
        self.hint = hint or "python -m daemon demo --plain shows each step; --keep leaves all running to look around"


async def show(choice: Choice, settings: Settings, console: Console) -> bool:
    """True when every promise was kept; whatever way it ends, nothing is left running.

    Raises `Trouble`. May be cancelled, which SIGTERM does, too.
    """
    _end_on(signal.SIGTERM)
    began, run = time.monotonic(), secrets.token_hex(2)
    asked = orders() if choice.real is None else [choice.real.order]
    tasks = [Watched(order, f"demo-{run}-{order.name}") for order in asked]
    screen = _screen(choice, console, tasks, began)
    world = World(settings, screen.part, stays=choice.keep, real=choice.real)
    async with AsyncExitStack() as stack:
        with screen:
            await _started(world, stack)
            first_token_s = await _beside_watch(world, _ask_and_watch(world, screen, tasks, began))
        end = await closing.closing(world, run, tasks, began=began, first_token_s=first_token_s)
        closing.show(console, end)
        if choice.json:
            sys.stdout.write(json.dumps(closing.as_json(end), ensure_ascii=False) + "\n")
            sys.stdout.flush()
        if choice.keep:
            staying.show(console, world)
            await _beside_watch(world, _until_interrupted())
    if choice.real is not None:
        console.print(Text(TRY if not end.good else f"{tasks[0].text}\n", "dim"), soft_wrap=True)
    elif not choice.keep:
        console.print(Text(staying.HINT, "dim"), soft_wrap=True)
    return end.good


def _screen(choice: Choice, console: Console, tasks: Sequence[Watched], began: float) -> Screen:
    if choice.live:
        return LiveScreen(console, tasks, began)
    return PlainScreen(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), began)


async def _started(world: World, stack: AsyncExitStack) -> None:
    try:
        await stack.enter_async_context(world)
    except ExceptionGroup as group:
        raise _trouble(group.exceptions[0]) from None
    except (EmbeddedError, InUse) as error:
        raise _trouble(error) from None


def _trouble(error: Exception) -> Exception:
    """What a user can do something about, as `Trouble`; anything else as it is."""
    match error:
        case PartFailed():
            return Trouble(str(error), error.words)
        case EmbeddedError():
            what, _, words = str(error).partition("\n")
            return Trouble(what.rstrip(":"), words)
        case InUse():
            return Trouble(str(error), "", "unset REDIS_URL and DATABASE_URL: the demo brings its own servers")
        case ExceptionGroup():
            return _trouble(error.exceptions[0])
        case _:
            return error


async def _beside_watch(world: World, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, unless a process ends before."""
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(world.watch())
            result = await work
            watch.cancel()
    except ExceptionGroup as group_of:
        raise _trouble(group_of) from None
    return result


async def _ask_and_watch(world: World, screen: Screen, tasks: Sequence[Watched], began: float) -> float | None:
    """Seconds from the start to the first streamed token, when all tasks have ended."""
    model, fault = FAULT
    if world.real is None:
        world.models.plan(fault, model=model)
    for task in tasks:
        try:
            await publish(task.order, task.task_id, relay_url=world.relay_url, qstash=world.qstash.environment)
        except (PublishRefused, aiohttp.ClientError, TimeoutError) as error:
            raise Trouble(f"publishing: {str(error) or type(error).__name__}", world.last_words("relay")) from error
        screen.asked(task)
    first_token_s: float | None = None
    deadline = time.monotonic() + END_S
    while not all(task.ended for task in tasks):
        for task in tasks:
            for event in await world.events.read(task.task_id, task.cursor):
                task.apply(event)
                screen.happened(task, event)
                if first_token_s is None and task.first_token_at:
                    first_token_s = time.monotonic() - began
        if time.monotonic() > deadline:
            left = ", ".join(f"{t.order.name} is {t.phase}" for t in tasks if not t.ended)
            raise Trouble(f"not ended after {END_S:.0f} s: {left}", world.last_words("daemon"))
        await asyncio.sleep(LOOK_S)
    return first_token_s


async def _until_interrupted() -> None:
    await asyncio.Event().wait()


def _end_on(number: signal.Signals) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(number, task.cancel)
