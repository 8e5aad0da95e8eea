"""Stand-ins for what costs money: a provider that says what it is told to, and a recorder in front of any port."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, cast

from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished, FinishReason, ModelRequest, Piece

T = TypeVar("T")

#: what one step of a script may be: a piece, an error, a pause in seconds, or something to wait for
#: a `Usage` is what the call has cost so far
Step = Piece | BaseException | float | asyncio.Event | Usage

USAGE: Final = Usage(input_tokens=11, cached_input_tokens=1, output_tokens=5, reasoning_tokens=2)


class Crash(BaseException):
    """The process dies here: nothing of ours may catch it."""


def text(content: str) -> Delta:
    """A delta of the answer."""
    return Delta(Channel.TEXT, content)


def thought(content: str) -> Delta:
    """A delta of thinking aloud."""
    return Delta(Channel.REASONING, content)


def finished(reason: FinishReason = "stop") -> Finished:
    """The provider's last word."""
    return Finished(reason, USAGE, "as-reported", "request-1")


ANSWER: Final[tuple[Step, ...]] = (thought("hm"), text("the "), text("answer"), finished())


class ScriptedProvider:
    """The `Provider` port by a script for each call; the last one goes on for ever."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self._scripts = list(scripts or (ANSWER,))
        self.calls: list[ModelRequest] = []
        self.open = 0  #: calls whose socket would be open now

    async def prepare(self) -> None:
        """Nothing to load."""

    async def generate(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """Play the script of this call."""
        script = self._scripts[min(len(self.calls), len(self._scripts) - 1)]
        self.calls.append(request)
        self.open += 1
        try:
            for step in script:
                match step:
                    case float() | int():
                        await asyncio.sleep(step)
                    case asyncio.Event():
                        await step.wait()
                    case BaseException():
                        raise step
                    case Usage():
                        request.spent[:] = [step]
                    case _:
                        if isinstance(step, Finished):
                            request.spent[:] = [step.usage]
                        yield step
        finally:
            self.open -= 1

    async def aclose(self) -> None:
        """Nothing to close."""


When = Literal["before", "after"]  #: a call fails before it is applied, or its reply is lost


@dataclass(slots=True)
class Trouble:
    """What happens at the call of that number, counted over all ports of a `Recorder`."""

    at: int
    when: When
    make: Callable[[], BaseException]  #: a CancelledError cancels the task instead of being raised


@dataclass(slots=True)
class Recorder:
    """Notes every call of the ports it wraps, and lets one of them fail."""

    trouble: Trouble | None = None
    calls: list[str] = field(default_factory=list)
    away: dict[str, Exception] = field(default_factory=dict)  #: calls that fail every time until taken out again
    before: Callable[[str], Awaitable[None]] | None = None  #: asked before each call

    def wrap(self, name: str, port: T) -> T:
        """The same port, watched; calls are noted as `name.method`."""
        return cast("T", _Watched(self, name, port))

    async def call(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Note it, make it, and fail if this is the one."""
        number = len(self.calls)
        self.calls.append(name)
        if self.before is not None:
            await self.before(name)
        if name in self.away:
            raise self.away[name]
        trouble = self.trouble if self.trouble is not None and self.trouble.at == number else None
        if trouble is not None and trouble.when == "before":
            await _befall(trouble)
        answer = await method(*args, **kwargs)
        if trouble is not None:
            await _befall(trouble)
        return answer


class _Watched:
    def __init__(self, recorder: Recorder, name: str, port: Any) -> None:
        self._recorder = recorder
        self._name = name
        self._port = port

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._port, method)
        if not inspect.iscoroutinefunction(real):
            return real
        return functools.partial(self._recorder.call, f"{self._name}.{method}", real)


async def _befall(trouble: Trouble) -> None:
    error = trouble.make()
    if not isinstance(error, asyncio.CancelledError):
        raise error
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
