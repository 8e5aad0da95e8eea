"""What one streamed chunk costs in CPU, by who parses it: vendors' SDKs, our adapters, the bare minimum.

    python bench/parse_cost.py [--streams 40] [--chunks 100] [--rounds 5] [--json]

A server in a process of its own writes `--chunks` chunks, 20 ms apart, to each of `--streams` streams at once, so that
every chunk is a read of its own, as it is with a real model. Counted is the client's CPU time over the chunks received.
Arms take turns within a round; the median over rounds is printed with the spread, and each arm's ratio to the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import msgspec
import openai
import uvloop
from aiohttp import web
from google import genai
from google.genai import types

sys.path.insert(0, str(Path(__file__).parent.parent))

from daemon.domain.model_io import ModelRequest
from daemon.ports import Provider
from daemon.providers.gemini import API_VERSION, Gemini
from daemon.providers.openai_compatible import DIALECTS, OpenAICompatible

GAP_S = 0.02
LIMIT = 1000
Stream = Callable[[], Awaitable[int]]


# --- the server -------------------------------------------------------------------------------------------------


def openai_chunk(at: int, last: int) -> bytes:
    choice = {"index": 0, "delta": {"content": f"word{at} "}, "logprobs": None, "finish_reason": None}
    if at == last:
        choice |= {"finish_reason": "stop"}
    chunk = {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m",
        "system_fingerprint": "fp_1", "choices": [choice],
    }  # fmt: skip
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n" + (b"data: [DONE]\n\n" if at == last else b"")


def gemini_chunk(at: int, last: int) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": f"word{at} "}], "role": "model"}, "index": 0}
    if at == last:
        candidate["finishReason"] = "STOP"
    usage = {"promptTokenCount": 10, "candidatesTokenCount": at, "totalTokenCount": 10 + at,
             "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}]}  # fmt: skip
    chunk = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m", "responseId": "r"}
    return b"data: " + msgspec.json.encode(chunk) + b"\r\n\r\n"


def serve(chunks: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        shaped = openai_chunk if request.path.endswith("/completions") else gemini_chunk
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        for at in range(chunks):
            await out.write(shaped(at, chunks - 1))
            await asyncio.sleep(GAP_S)
        return out

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    uvloop.run(run())


# --- the arms ---------------------------------------------------------------------------------------------------


async def openai_sdk(url: str, stack: AsyncExitStack) -> Stream:
    http = openai.DefaultAsyncHttpxClient(limits=httpx2.Limits(max_connections=LIMIT))
    client = openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0, http_client=http)
    stack.push_async_callback(client.close)

    async def stream() -> int:
        call = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
        async with await call as chunks:
            return len([c async for c in chunks])

    return stream


async def openai_lines(url: str, stack: AsyncExitStack) -> Stream:
    """The SDK's own HTTP engine, its raw lines, our decoder's work."""
    http = openai.DefaultAsyncHttpxClient(limits=httpx2.Limits(max_connections=LIMIT))
    client = openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0, http_client=http)
    stack.push_async_callback(client.close)

    async def stream() -> int:
        call = client.chat.completions.with_streaming_response.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        async with call as response:
            return sum([decoded(line) async for line in response.iter_lines()])

    return stream


def decoded(line: str | bytes) -> int:
    if len(line) < 7 or line[6:7] in ("[", b"["):
        return 0
    msgspec.json.decode(line[6:])
    return 1


async def ours(provider: Provider, stack: AsyncExitStack) -> Stream:
    stack.push_async_callback(provider.aclose)
    request = ModelRequest("x", "m", "", "hi")

    async def stream() -> int:
        return len([piece async for piece in provider.generate(request)]) - 1

    return stream


async def openai_ours(url: str, stack: AsyncExitStack) -> Stream:
    told: dict[str, Any] = {"api_key": "k", "base_url": url, "connections_max": LIMIT, "connect_timeout_s": 5}
    return await ours(OpenAICompatible(DIALECTS["openai"], **told), stack)


async def gemini_ours(url: str, stack: AsyncExitStack) -> Stream:
    return await ours(Gemini(api_key="k", base_url=url, connections_max=LIMIT, connect_timeout_s=5), stack)


async def gemini_sdk(url: str, stack: AsyncExitStack) -> Stream:
    http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=LIMIT), timeout=None)
    stack.push_async_callback(http.aclose)
    options = types.HttpOptions(base_url=url, api_version=API_VERSION, httpx_async_client=http)
    client = genai.Client(api_key="k", vertexai=False, http_options=options)

    async def stream() -> int:
        return len([c async for c in await client.aio.models.generate_content_stream(model="m", contents="hi")])

    return stream


async def bare(url: str, stack: AsyncExitStack) -> Stream:
    """Plain aiohttp and an untyped decode: what no adapter can go below by much."""
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=LIMIT))
    stack.push_async_callback(session.close)

    async def stream() -> int:
        async with session.post(f"{url}/completions", json={"stream": True}) as response:
            return sum([decoded(line.strip()) async for line in response.content])

    return stream


ARMS = {
    "openai: the SDK parses": openai_sdk,
    "openai: raw lines, SDK's engine": openai_lines,
    "openai: our adapter": openai_ours,
    "gemini: the SDK parses": gemini_sdk,
    "gemini: our adapter": gemini_ours,
    "plain aiohttp": bare,
}


async def measure(url: str, streams: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of CPU a chunk, one number a round, for each arm."""
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    async with AsyncExitStack() as stack:
        made = {name: await arm(url, stack) for name, arm in ARMS.items()}
        for stream in made.values():  # imports, connections, caches
            await asyncio.gather(*(stream() for _ in range(streams)))
        for _ in range(rounds):
            for name, stream in made.items():
                before = time.process_time()
                chunks = sum(await asyncio.gather(*(stream() for _ in range(streams))))
                found[name].append((time.process_time() - before) / chunks * 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=40)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.chunks)
        return
    command = [sys.executable, __file__, "--serve", "--chunks", str(chosen.chunks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            found = uvloop.run(measure(url, chosen.streams, chosen.rounds))
        finally:
            server.kill()
    if chosen.json:
        print(json.dumps({"streams": chosen.streams, "chunks": chosen.chunks, "microseconds": found}))
        return
    print(f"{chosen.rounds} rounds x {chosen.streams} streams x {chosen.chunks} chunks")
    first = statistics.median(next(iter(found.values())))
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:34} {middle:6.0f} µs/chunk  ({min(values):.0f}-{max(values):.0f})  x{middle / first:.2f}")


if __name__ == "__main__":
    main()
