"""What goes in and what must never come out: pictures, JSON mode, tags of users, and secrets."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import traceback
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from daemon.dev.fake_llm import FakeLLM
from daemon.domain.errors import ModelUnavailable, ProviderError
from daemon.domain.model_io import Delta, Finished, Picture
from daemon.ports import Provider
from tests.conformance.stand_ins import StandIn

SECRETS = ("0123", "canary", "brief")  #: parts of key, prompt and system text that no spelling of them changes


def png(width: int, height: int, padding: int = 0) -> bytes:
    """A real picture; `padding` makes it large."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"".join(b"\0" + b"\x80" * 3 * width for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"tEXt", b"x\0" + b"y" * padding)
        + part(b"IDAT", pixels) + part(b"IEND", b"")
    )  # fmt: skip


async def text(provider: Provider, request: Any) -> tuple[str, Finished]:
    pieces = [piece async for piece in provider.generate(request)]
    last = pieces[-1]
    assert isinstance(last, Finished)
    return "".join(p.text for p in pieces if isinstance(p, Delta)), last


@pytest.mark.parametrize("size", [0, 2 * 1024 * 1024])
async def test_pictures_arrive_as_they_were(
    fake: FakeLLM, fake_stand_in: StandIn, fake_provider: Provider, size: int
) -> None:
    """Byte for byte, the small and the large."""
    pictures = (Picture("image/png", png(7, 5, size)), Picture("image/png", png(3, 2)))
    found, _ = await text(fake_provider, await fake_stand_in.request(pictures=pictures))
    assert fake.calls[-1].images == 2
    assert f"7x5 pixels, {len(pictures[0].data)} bytes" in found
    assert f"3x2 pixels, {len(pictures[1].data)} bytes" in found


@pytest.mark.parametrize("stream", [True, False])
async def test_json_mode_answers_with_json(fake_stand_in: StandIn, fake_provider: Provider, *, stream: bool) -> None:
    """A schema in the prompt is kept to."""
    schema = {"type": "object", "required": ["verdict", "score"], "properties": {
        "verdict": {"enum": ["hire", "pass"]}, "score": {"type": "integer", "minimum": 1, "maximum": 5},
    }}  # fmt: skip
    prompt = f"Judge the candidate. Schema: {json.dumps(schema)}"
    found, _ = await text(fake_provider, await fake_stand_in.request(prompt=prompt, json_output=True, stream=stream))
    jsonschema.validate(json.loads(found), schema)


async def test_limits_and_temperature_are_sent(fake_stand_in: StandIn, fake_provider: Provider) -> None:
    """The token limit of a service reaches the model."""
    _, last = await text(fake_provider, await fake_stand_in.request(max_output_tokens=5, temperature=0.2))
    assert last.reason == "length"
    assert last.usage.output_tokens == 5


async def test_a_repeated_prompt_counts_as_cached(fake_stand_in: StandIn, fake_provider: Provider) -> None:
    """Both vendors' names for cached input end in one."""
    request = await fake_stand_in.request(prompt="word " * 100)
    _, first = await text(fake_provider, request)
    _, second = await text(fake_provider, request)
    assert first.usage.cached_input_tokens == 0
    assert 0 < (second.usage.cached_input_tokens or 0) <= (second.usage.input_tokens or 0)


async def test_the_answer_names_its_model_and_call(fake_stand_in: StandIn, fake_provider: Provider) -> None:
    """What support asks for first."""
    _, last = await text(fake_provider, await fake_stand_in.request(model_name="some-model"))
    assert last.model_name == "some-model"
    assert last.request_id


async def test_the_tag_of_a_user_reaches_the_vendor(fake: FakeLLM) -> None:
    """Abuse can be traced by the vendor to a tag, never to a user id."""
    stand_in = StandIn("fake", "openai", fake.url, 2.0)
    provider = stand_in.provider()
    await text(provider, await stand_in.request(user_tag="u-abc"))
    await provider.aclose()
    assert fake.calls[-1].user == "u-abc"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_body_that_echoes_secrets_is_not_passed_on(
    fake_stand_in: StandIn, fake_provider: Provider, capfd: pytest.CaptureFixture[str], *, stream: bool
) -> None:
    """Not in the error, nor in its traceback, nor in a log line."""
    request = await fake_stand_in.request(model_name="fault-echo-secret", prompt="canary-4711", stream=stream)
    with pytest.raises(ProviderError) as raised:
        await text(fake_provider, request)
    error = raised.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + error.detail + error.message
    shown += repr(error.__cause__) + repr(error.__context__) + "".join(capfd.readouterr())
    assert [secret for secret in SECRETS if secret in shown.lower()] == []


async def test_a_refused_key_is_shouted_about_and_parks_the_model(
    fake_stand_in: StandIn, fake_provider: Provider, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong key is an operator's problem; it must not burn the attempts of every task."""
    with pytest.raises(ModelUnavailable) as raised:
        await text(fake_provider, await fake_stand_in.request("key"))
    assert raised.value.reason == "QUOTA"
    logged = capfd.readouterr().err
    assert "provider.key_refused" in logged
    assert "test-key-0123" not in logged


async def test_a_fault_once_is_over_at_the_second_try(fake_stand_in: StandIn, fake_provider: Provider) -> None:
    """What the demo shows: one failure, one retry, one answer."""
    request = await fake_stand_in.request(model_name="fault-cut-once")
    with pytest.raises(ProviderError):
        await text(fake_provider, request)
    found, _ = await text(fake_provider, request)
    assert found


async def test_the_fake_takes_orders_over_http(fake: FakeLLM, fake_stand_in: StandIn, fake_provider: Provider) -> None:
    """Chaos runs plan faults and read the history of calls from outside."""
    async with aiohttp.ClientSession(fake.url) as session, asyncio.timeout(5):
        async with session.post("/_fake/plan", json={"faults": ["503-after-7", "ok"]}) as answer:
            assert await answer.json() == {"planned": 2}
        with pytest.raises(ModelUnavailable) as raised:
            await text(fake_provider, await fake_stand_in.request())
        assert raised.value.retry_after_s == 7
        await text(fake_provider, await fake_stand_in.request())
        async with session.get("/_fake/calls") as answer:
            told = await answer.json()
        assert [(c["fault"], c["ending"]) for c in told["calls"]] == [("503", "finished"), ("", "finished")]
        assert all(c["began"] <= c["ended"] for c in told["calls"])
        assert list(told["maxAtOnce"].values()) == [1]
        async with session.post("/_fake/plan", json={"faults": ["nonsense"]}) as answer:
            assert answer.status == 400
        async with session.post("/_fake/reset") as answer:
            assert answer.status == 200
        async with session.get("/v1/models") as answer:
            assert "fault-cut" in str(await answer.json())
    assert fake.calls == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", {"model": "m"}, 400),
        ("/chat/completions", {"model": "fault-nonsense", "messages": [{"role": "user", "content": "x"}]}, 400),
        ("/v1beta/models/m:generateContent", {"contents": []}, 400),
        ("/v1beta/models/m%3AgenerateContent", {"contents": [{"parts": [{"text": "x"}]}]}, 200),
        ("/v1beta/models/m:countTokens", {"contents": [{"parts": [{"text": "x"}]}]}, 404),
    ],
)
async def test_the_fake_refuses_what_the_vendors_refuse(
    fake: FakeLLM, path: str, body: dict[str, Any], status: int
) -> None:
    """No stand-in that takes everything: that hides mistakes."""
    headers = {"Authorization": "Bearer k", "x-goog-api-key": "k"}
    async with aiohttp.ClientSession(fake.url) as session, asyncio.timeout(5):
        async with session.post(path, json=body, headers=headers) as answer:
            assert answer.status == status
        async with session.post(path, json=body) as answer:
            assert answer.status in (401, 404)


async def test_the_fake_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    """For the demo and chaos runs: one JSON line when ready, its history in a file, a clean end on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.dev.fake_llm", "--log", str(tmp_path / "calls.jsonl"), "--words", "5",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            ready = json.loads(await process.stdout.readline())
            stand_in = StandIn("fake", "openai", ready["url"], 2.0)
            provider = stand_in.provider()
            await text(provider, await stand_in.request())
            await provider.aclose()
            process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    events = [json.loads(line)["event"] for line in (tmp_path / "calls.jsonl").read_text("utf-8").splitlines()]
    assert events == ["began", "ended"]
    assert (ready["openaiBaseUrl"], ready["geminiBaseUrl"]) == (f"{ready['url']}/v1", ready["url"])
