"""The port `Provider`, on each adapter, in front of our fake and two model servers that others wrote."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import pytest

from daemon.domain.errors import CODES, Code, Disposition, ModelUnavailable, ProviderError
from daemon.domain.events import Channel
from daemon.domain.model_io import Delta, Finished, ModelRequest
from daemon.ports import Provider
from tests.conformance.stand_ins import AIMOCK, FAKE, LLMOCK, StandIn

ALL = [f"{server}-{shape}" for server in ("fake", "llmock", "aimock") for shape in ("openai", "gemini")]


@dataclass(frozen=True)
class Meaning:
    """What a trouble must end as."""

    code: Code
    closed: str = ""  #: the reason of `ModelUnavailable`


MEANINGS = {
    "rate_limit": Meaning(Code.RATE_LIMITED, "RATE_LIMITED"),
    "unavailable": Meaning(Code.RATE_LIMITED, "OVERLOADED"),
    "no_resources": Meaning(Code.RATE_LIMITED, "OVERLOADED"),
    "quota": Meaning(Code.LLM_QUOTA, "QUOTA"),
    "key": Meaning(Code.LLM_QUOTA, "QUOTA"),
    "unknown_model": Meaning(Code.LLM_ERROR, "UNKNOWN_MODEL"),
    "server_error": Meaning(Code.LLM_ERROR),
    "cut": Meaning(Code.LLM_ERROR),
    "hang_up": Meaning(Code.LLM_ERROR),
    "truncated": Meaning(Code.LLM_ERROR),
    "garbled": Meaning(Code.LLM_ERROR),
    "page": Meaning(Code.LLM_ERROR),
    "error_event": Meaning(Code.LLM_ERROR),
    "empty": Meaning(Code.LLM_BAD_OUTPUT),
    "refused": Meaning(Code.LLM_REFUSED),
    "refused_prompt": Meaning(Code.LLM_REFUSED),
    "bad_request": Meaning(Code.LLM_REFUSED),
}
OFFERED = {"fake": tuple(FAKE), "llmock": tuple(LLMOCK), "aimock": AIMOCK}
TROUBLES = [(name, t) for name in ALL for t in OFFERED[name.split("-")[0]] if t in MEANINGS]
#: what a server offers only while it streams
STREAM_ONLY = {"cut", "truncated", "garbled"}


async def collect(provider: Provider, request: ModelRequest) -> tuple[list[Delta], Finished]:
    """All pieces, with the promise about their order checked."""
    pieces = [piece async for piece in provider.generate(request)]
    assert all(isinstance(piece, Delta) for piece in pieces[:-1])
    assert isinstance(pieces[-1], Finished)
    return cast("list[Delta]", pieces[:-1]), pieces[-1]


def said(deltas: list[Delta], channel: Channel = Channel.TEXT) -> str:
    return "".join(d.text for d in deltas if d.channel is channel)


@pytest.mark.parametrize("stand_in", ALL, indirect=True)
async def test_a_stream_is_deltas_and_then_one_last_word(stand_in: StandIn, provider: Provider) -> None:
    """Text arrives in pieces, usage with the end."""
    deltas, last = await collect(provider, await stand_in.request())
    assert len(deltas) > 1
    assert said(deltas).strip()
    assert last.reason == "stop"
    if stand_in.counts:
        assert (last.usage.output_tokens or 0) > 0
    assert last.usage.cost_usd is None


@pytest.mark.parametrize("stand_in", ALL, indirect=True)
async def test_one_plain_call_is_one_delta(stand_in: StandIn, provider: Provider) -> None:
    """Batch tasks get the whole text at once."""
    deltas, last = await collect(provider, await stand_in.request(stream=False))
    assert len(deltas) == 1
    assert deltas[0].text.strip()
    assert last.reason == "stop"


@pytest.mark.parametrize("stand_in", ["fake-openai", "fake-gemini", "aimock-openai", "aimock-gemini"], indirect=True)
@pytest.mark.parametrize("stream", [True, False])
async def test_thoughts_have_their_own_channel(stand_in: StandIn, provider: Provider, *, stream: bool) -> None:
    """What a model thinks never mixes with what it answers."""
    request = await stand_in.request(stream=stream, prompt="think about queues", model_name="o1-think")
    deltas, last = await collect(provider, request)
    thought, text = said(deltas, Channel.REASONING), said(deltas)
    assert "question" in thought
    assert text.strip()
    assert thought not in text
    if stand_in.server == "fake":
        assert (last.usage.output_tokens or 0) > (last.usage.reasoning_tokens or 0) > 0


@pytest.mark.parametrize("stand_in", ALL, indirect=True)
async def test_an_answer_that_hit_its_limit_says_so(stand_in: StandIn, provider: Provider) -> None:
    """`length` is for the caller to judge, not an error."""
    _, last = await collect(provider, await stand_in.request("length"))
    assert last.reason == "length"


@pytest.mark.parametrize(("stand_in", "trouble"), TROUBLES, indirect=["stand_in"])
async def test_each_trouble_of_a_stream_ends_in_its_code(stand_in: StandIn, provider: Provider, trouble: str) -> None:
    """Errors are translated once, at this edge; nothing of a vendor gets past it."""
    await check(stand_in, provider, await stand_in.request(trouble), trouble)


@pytest.mark.parametrize(
    ("stand_in", "trouble"),
    [(s, t) for s, t in TROUBLES if s.startswith("fake") or t not in STREAM_ONLY],
    indirect=["stand_in"],
)
async def test_each_trouble_of_a_plain_call_ends_in_its_code(
    stand_in: StandIn, provider: Provider, trouble: str
) -> None:
    """Batch tasks fail in the same words."""
    await check(stand_in, provider, await stand_in.request(trouble, stream=False), trouble)


async def check(stand_in: StandIn, provider: Provider, request: ModelRequest, trouble: str) -> None:
    """The call raises what `MEANINGS` says, once, within a second or two."""
    meaning = MEANINGS[trouble]
    with pytest.raises(ProviderError) as raised:
        async with asyncio.timeout(5):
            await collect(provider, request)
    error = raised.value
    assert error.code is meaning.code, error
    assert type(error) is (ModelUnavailable if meaning.closed else ProviderError), error
    if isinstance(error, ModelUnavailable):
        assert error.reason == meaning.closed
    if trouble == "rate_limit":
        assert error.retry_after_s == pytest.approx(stand_in.retry_after_s)
    if trouble == "bad_request":
        assert CODES[error.code].disposition is Disposition.REJECT, (
            "a request that can't be accepted is not tried again"
        )


@pytest.mark.parametrize("stand_in", [s for s in ALL if not s.startswith("aimock")], indirect=True)
async def test_a_stall_is_left_to_the_callers_clocks(stand_in: StandIn, provider: Provider) -> None:
    """The adapter has no clock of its own: it waits, and can be cancelled."""
    seen: list[Any] = []
    request = await stand_in.request("stall")

    async def watch() -> None:
        async with asyncio.timeout(30) as limit, aclosing(cast("Any", provider.generate(request))) as stream:
            async for piece in stream:
                seen.append(piece)
                limit.reschedule(asyncio.get_running_loop().time() + 0.5)  # from the last piece: however slow it came

    with pytest.raises(TimeoutError):
        await watch()
    assert seen, "what came before the stall was handed on"
    assert not any(isinstance(piece, Finished) for piece in seen)


@pytest.mark.parametrize("stand_in", ["llmock-openai", "llmock-gemini"], indirect=True)
async def test_nothing_is_ever_tried_twice(stand_in: StandIn, provider: Provider) -> None:
    """One layer retries, and this is not it: the second call is ours and succeeds."""
    with pytest.raises(ProviderError):
        await collect(provider, await stand_in.request("server_error"))
    deltas, _ = await collect(provider, await stand_in.request())
    assert said(deltas)


@pytest.mark.parametrize("stand_in", ALL, indirect=True)
async def test_closing_twice_and_early_is_fine(stand_in: StandIn) -> None:
    """The pool may never have been opened."""
    provider = stand_in.provider()
    await provider.aclose()
    await collect(provider, await stand_in.request())
    await provider.aclose()
    await provider.aclose()
