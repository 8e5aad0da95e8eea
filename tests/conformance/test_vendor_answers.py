"""Answers as vendors really send them, through the real adapters over real HTTP: each gives what it must."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.domain.clock import SystemClock
from daemon.domain.errors import ModelUnavailable, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished, ModelRequest
from daemon.pipeline.call_scope import CallScope
from daemon.pipeline.model_call import ask_model
from daemon.pipeline.timeouts import Timeouts
from daemon.ports import Provider
from tests.conformance.error_table import page
from tests.conformance.vendor_server import Case, Script, VendorServer, adapter, read_cases, request, vendor_server

CASES: Final = [*read_cases("reported"), *read_cases("own")]
#: each in two reads, cut at every byte; those with pauses, resets and open bodies are told by the whole
CUT: Final = ("o-bom", "o-single-newline", "o-surrogate-split", "o-nan", "o-content-list", "o-empty-data", "o-eos",
              "g-200-array", "g-surrogate", "g-usage-partial", "ob-bom", "ob-sse")  # fmt: skip


@dataclass
class Outcome:
    """What a caller of the adapter has seen."""

    text: str = ""
    thoughts: str = ""
    last: Finished | None = None
    error: ProviderError | None = None
    took_s: float = 0.0
    spent: list[Usage] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)


async def outcome(provider: Provider, asked: ModelRequest, within_s: float = 15.0) -> Outcome:
    """Any exception but ours fails the test here."""
    seen, began = Outcome(), time.monotonic()
    try:
        async with asyncio.timeout(within_s):
            async for piece in provider.generate(asked):
                assert seen.last is None, "nothing follows the last word"
                if isinstance(piece, Finished):
                    seen.last = piece
                else:
                    seen.deltas.append(piece)
    except ProviderError as error:
        seen.error = error
    seen.took_s, seen.spent = time.monotonic() - began, asked.spent
    seen.text = "".join(d.text for d in seen.deltas if d.channel is Channel.TEXT)
    seen.thoughts = "".join(d.text for d in seen.deltas if d.channel is Channel.REASONING)
    seen.text.encode()  # no lone surrogate leaves an adapter
    return seen


def judge(case: Case, seen: Outcome) -> None:
    """Against `expected.json`; a key that is not there says nothing."""
    wanted = case.expected
    if wanted["end"] != "done":
        assert seen.last is None and seen.error is not None, seen
        if "code" in wanted:
            assert seen.error.code == wanted["code"], seen.error
        if "cut" in wanted:
            assert seen.error.cut is wanted["cut"] and "max_output_tokens" in seen.error.detail, seen.error
        if "spent" in wanted:
            assert [seen.spent[0].input_tokens, seen.spent[0].output_tokens] == wanted["spent"], seen.spent
        if "reason" in wanted:
            assert isinstance(seen.error, ModelUnavailable) and seen.error.reason == wanted["reason"], seen.error
            assert seen.error.retry_after_s == wanted.get("retryAfterS")
        elif "LLM_QUOTA" in wanted["end"] or "quota" in wanted["end"]:
            assert isinstance(seen.error, ModelUnavailable) and seen.error.reason == "QUOTA", seen.error
        return
    assert seen.error is None and seen.last is not None, seen
    assert seen.text == wanted.get("text", seen.text)
    assert seen.thoughts == wanted.get("thoughts", seen.thoughts)
    if "finishReason" in wanted:
        assert seen.last.reason == wanted["finishReason"]
    for name, value in _counts(wanted).items():
        assert getattr(seen.last.usage, name) == value, (name, seen.last.usage)
    assert seen.took_s < wanted.get("within_s", 15)


def _counts(wanted: dict[str, Any]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    if "usage" in wanted:
        found["input_tokens"], found["output_tokens"] = wanted["usage"]
    if "cached" in wanted:
        found["cached_input_tokens"] = wanted["cached"]
    if "reasoning" in wanted:
        found["reasoning_tokens"] = wanted["reasoning"]
    return found


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """The SDKs are imported once, outside of every clock."""
    asyncio.run(_load())


async def _load() -> None:
    for gemini in (True, False):
        provider = adapter("http://127.0.0.1:1", gemini=gemini)
        await provider.prepare()
        await provider.aclose()


@pytest.fixture
async def server() -> AsyncIterator[VendorServer]:
    async with vendor_server() as found:
        yield found


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_an_odd_answer_gives_what_it_must(case: Case, server: VendorServer, *, chunked: bool) -> None:
    """Whole where it is whole, an error where it is not, in time where the body stays open."""
    server.script = replace(case.script, chunked=chunked)
    provider = adapter(server.url, gemini=case.gemini)
    try:
        judge(case, await outcome(provider, request(case)))
    finally:
        await provider.aclose()
    assert server.calls == 1


@pytest.mark.parametrize("case", [c for c in CASES if c.name in CUT], ids=lambda case: case.name)
async def test_a_read_may_end_at_any_byte(case: Case, server: VendorServer) -> None:
    """What an answer gives does not depend on how the network cuts it."""
    provider = adapter(server.url, gemini=case.gemini)
    try:
        for at in range(1, len(case.script.body)):
            server.script = case.script.cut(at)
            judge(case, await outcome(provider, request(case)))
    finally:
        await provider.aclose()


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]\n\n"])
async def test_an_open_body_is_left_before_the_callers_clock_ends_the_call(server: VendorServer, tail: bytes) -> None:
    """One text and its finish reason in one chunk, then silence: the answer is whole, and no time-out."""
    chunk = b'data: {"choices": [{"delta": {"content": "all of it"}, "finish_reason": "stop"}]}\n\n'
    case = Case("o-one-text-open", Script([(0.0, chunk + tail)], "open"))
    server.script = case.script
    provider = adapter(server.url, gemini=False)
    try:
        asked = request(case, idle_s=1.0)
        answer = await ask_model(asked, provider, CallScope(), Timeouts(1.0, 1.0, 10.0), None, SystemClock())
    finally:
        await provider.aclose()
    assert (answer.text, answer.finished.reason) == ("all of it", "stop")


def test_the_table_of_errors_is_what_this_suite_asserts() -> None:
    """`python -m tests.conformance.error_table > docs/provider-errors.md` writes it."""
    assert (Path(__file__).parents[2] / "docs" / "provider-errors.md").read_text("utf-8") == page()
