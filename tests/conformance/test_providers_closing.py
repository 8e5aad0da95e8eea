"""A call that nobody waits for any more costs money: its socket is closed at once, seen from the server's side."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress

import pytest

from daemon.dev.fake_llm import Call, FakeLLM
from daemon.domain.errors import Code, ProviderError
from daemon.domain.model_io import Finished, ModelRequest, Piece
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
    try:
        await opened_at_once(fake, provider, await fake_stand_in.request(model_name="many-fault-slow-drip"), 130)
    finally:
        await provider.aclose()


async def test_a_storm_of_cancels_leaves_every_connection_usable(
    fake: FakeLLM, fake_stand_in: StandIn, wait_until: WaitUntil
) -> None:
    """F60: a thousand calls share eight connections and are cancelled while waiting, connecting, reading."""
    provider = fake_stand_in.provider(connections_max=8)
    await provider.prepare()
    slow = await fake_stand_in.request(model_name="storm-fault-slow-drip")
    chance = random.Random(60)

    async def call() -> None:
        async for _ in provider.generate(slow):
            pass

    async def cancelled() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.uniform(0.0, 0.2)):
                await call()

    try:
        for _ in range(5):
            async with asyncio.TaskGroup() as storm:
                for _ in range(200):
                    storm.create_task(cancelled())
        await wait_until(lambda: all(call.ended for call in fake.calls), description="the server sees them end")
        assert len(fake.calls) > 20 and 1 < fake.max_at_once(slow.model_name) <= 8
        await opened_at_once(fake, provider, await fake_stand_in.request(model_name="after-fault-slow-drip"), 8)
        [*_, last] = await _drain(provider.generate(await fake_stand_in.request()))
    finally:
        await provider.aclose()
    assert isinstance(last, Finished)


async def opened_at_once(fake: FakeLLM, provider: Provider, request: ModelRequest, count: int) -> None:
    """Returns when so many streams were open at the same moment."""
    arrived = asyncio.Event()

    async def first() -> None:
        async with aclosing(opened(provider, request)) as stream:
            async for _ in stream:
                if fake.max_at_once(request.model_name) >= count:
                    arrived.set()
                await arrived.wait()
                return

    async with asyncio.timeout(20):
        await asyncio.gather(*(first() for _ in range(count)))
    assert fake.max_at_once(request.model_name) == count


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_of_a_vendor_is_not_followed(fake_stand_in: StandIn, status: int) -> None:
    """F70: whoever answers in a vendor's place can't send us, and the key with us, to an address inside."""
    reached: list[bytes] = []

    async def inside(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        where = f"http://127.0.0.1:{port}/latest/meta-data/"
        writer.write(f"HTTP/1.1 {status} Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(inside, "127.0.0.1", 0) as target:
        port = target.sockets[0].getsockname()[1]
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            provider = StandIn("fake", fake_stand_in.shape, url, 0).provider()
            with pytest.raises(ProviderError):
                await _drain(provider.generate(await fake_stand_in.request()))
            await provider.aclose()
    assert reached == []


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
