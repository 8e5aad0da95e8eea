"""A call that nobody waits for any more costs money: its socket is closed at once, seen from the server's side."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

import pytest

from daemon.calls import Finished, ModelRequest, Piece
from daemon.dev.fake_llm import Call, FakeLLM
from daemon.errors import Code, ProviderError
from daemon.ports import Provider
from daemon.providers.openai_compatible import DIALECTS, OpenAICompatible
from tests.conformance.stand_ins import StandIn
from tests.waiting import WaitUntil

CLOSED_WITHIN_S = 2


@pytest.fixture(autouse=True)
def _no_help_from_the_collector() -> Iterator[None]:
    """What is closed here is closed by us."""
    gc.disable()
    yield
    gc.enable()


def opened(provider: Provider, request: ModelRequest) -> AsyncGenerator[Piece, None]:
    return provider.generate(request)


async def ended(fake: FakeLLM, wait_until: WaitUntil) -> Call:
    """The last call, once the server has seen its end; fails after two seconds."""
    since = time.monotonic()
    call = fake.calls[-1]
    await wait_until(lambda: call.ended, description="the server sees the call end", within_s=1)
    assert time.monotonic() - since <= CLOSED_WITHIN_S
    return call


async def test_leaving_a_stream_closes_its_socket(
    fake: FakeLLM, fake_stand_in: StandIn, fake_provider: Provider, wait_until: WaitUntil
) -> None:
    """`break` inside `aclosing`, in the middle of an answer."""
    request = await fake_stand_in.request(model_name="plain-fault-slow-drip")
    async with aclosing(opened(fake_provider, request)) as stream:
        async for _ in stream:
            break
    assert (await ended(fake, wait_until)).ending == "closed"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["stall-first", "keepalive-forever", "stall-mid", "slow-drip"])
async def test_cancelling_a_call_closes_its_socket(
    fake: FakeLLM, fake_stand_in: StandIn, fake_provider: Provider, wait_until: WaitUntil, fault: str, *, stream: bool
) -> None:
    """Wherever the call is: before the headers, among keep-alives, between two tokens."""
    request = await fake_stand_in.request(model_name=f"fault-{fault}", stream=stream)

    async def watch() -> None:
        async for _ in fake_provider.generate(request):
            pass

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch())
        await wait_until(lambda: fake.calls, description="the call arrives")
        await asyncio.sleep(0.05)  # into the answer, if there is one
        task.cancel()
    assert (await ended(fake, wait_until)).ending == "closed"


async def test_keep_alives_are_not_pieces(fake_stand_in: StandIn, fake_provider: Provider) -> None:
    """An endless wait looks like silence to the caller's clocks."""
    request = await fake_stand_in.request(model_name="fault-keepalive-forever")
    seen: list[Piece] = []

    async def watch() -> None:
        async with asyncio.timeout(0.3):
            async for piece in fake_provider.generate(request):
                seen.append(piece)  # noqa: PERF401 - what came before the end is what is asked for

    with pytest.raises(TimeoutError):
        await watch()
    assert seen == []


async def test_more_than_a_hundred_streams_run_at_once(fake: FakeLLM, fake_stand_in: StandIn) -> None:
    """Vendor clients stop at 100 connections; ours at the number it is given."""
    provider = fake_stand_in.provider(connections_max=150)
    request = await fake_stand_in.request(model_name="many-fault-slow-drip")
    arrived = asyncio.Event()

    async def first() -> None:
        async with aclosing(opened(provider, request)) as stream:
            async for _ in stream:
                if fake.max_at_once(request.model_name) >= 130:
                    arrived.set()
                await arrived.wait()
                return

    try:
        async with asyncio.timeout(20):
            await asyncio.gather(*(first() for _ in range(130)))
    finally:
        await provider.aclose()
    assert fake.max_at_once(request.model_name) == 130


async def test_a_server_that_is_not_there_is_an_error(fake_stand_in: StandIn) -> None:
    """A refused connection names the host for the operator and nothing to the user."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = StandIn("fake", fake_stand_in.shape, f"http://127.0.0.1:{unused.getsockname()[1]}", 0)
        await fails_to_connect(away, lambda detail: "ConnectError" in detail)


async def test_connecting_has_a_limit(fake_stand_in: StandIn) -> None:
    """The only clock of an adapter: a host that does not answer must fail fast."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for filler in (first, second):  # its queue is full: the next handshake is never finished
                filler.settimeout(0)
                filler.connect_ex(deaf.getsockname())
            away = StandIn("fake", fake_stand_in.shape, f"http://127.0.0.1:{deaf.getsockname()[1]}", 0)
            await fails_to_connect(away, lambda detail: "ConnectTimeout" in detail)


async def fails_to_connect(away: StandIn, told: Callable[[str], bool]) -> None:
    provider = away.provider()
    try:
        with pytest.raises(ProviderError) as raised:
            async with asyncio.timeout(4):
                await _drain(provider.generate(await away.request()))
    finally:
        await provider.aclose()
    assert raised.value.code is Code.LLM_ERROR
    assert told(raised.value.detail), raised.value.detail


async def _drain(stream: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [piece async for piece in stream]


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]\n\n", b"data: [DONE]"])
async def test_a_cut_after_the_last_word_keeps_the_answer(tail: bytes) -> None:
    """Once the finish reason is here the text is whole; only its usage may be missing. A body left open ends, too."""
    chunk = b'data: {"choices": [{"delta": {"content": "all of it"}, "finish_reason": "stop"}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100000\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + chunk + tail)
        await writer.drain()
        if not tail.endswith(b"\n\n"):
            writer.close()
        else:
            await reader.read()  # stays open until the client hangs up
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        provider = OpenAICompatible(
            DIALECTS["deepseek"], api_key="k", base_url=f"http://127.0.0.1:{port}", connections_max=5,
            connect_timeout_s=2,
        )  # fmt: skip
        async with asyncio.timeout(5):
            pieces = await _drain(provider.generate(ModelRequest("deepseek", "m", "", "hello")))
        await provider.aclose()
    assert isinstance(pieces[-1], Finished)
    assert pieces[-1].reason == "stop"
