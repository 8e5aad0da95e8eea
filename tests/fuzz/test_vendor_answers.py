"""Odd answers made odder: whatever a vendor sends, an adapter gives the text that came, or an error of ours."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daemon.domain.model_io import ModelRequest
from daemon.ports import Provider
from tests.conformance.test_vendor_answers import Outcome, outcome
from tests.conformance.vendor_server import Case, Script, VendorServer, adapter, read_cases, request, vendor_server

SAMPLE: Final = 600
WHOLE: Final = 50_000
#: without pauses and open bodies: those cost seconds each
CASES: Final = [
    replace(case, script=replace(case.script, pieces=[(0.0, case.script.body)], end_pause_s=0.0))
    for case in [*read_cases("reported"), *read_cases("own")]
    if case.script.status == 200 and case.script.ending != "open"
]
text = st.text(max_size=12) | st.sampled_from(["\ud83d", "\ude00", "\x00", "NaN", "data: x", "[DONE]", '{"a": 1}'])
scalars = st.none() | st.booleans() | text | st.integers() | st.floats() | st.sampled_from([-1, 10**30, "1e5", "7"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))


def encoded(value: Any) -> bytes:
    """As vendors write it: `NaN` and lone surrogates among it."""
    return json.dumps(value).encode()


# --- answers whose text is known ------------------------------------------------------------------------------------


@st.composite
def whole_answers(draw: st.DrawFn, *, gemini: bool) -> tuple[str, Script]:
    """A complete answer of any text in any number of chunks, with anything beside it, framed in any way."""
    texts = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5))
    chunks = [chunk(gemini, each, None) for each in texts] + [chunk(gemini, None, "stop")]
    for each in chunks:
        each.update(draw(st.dictionaries(st.sampled_from(BESIDE[gemini]), values, max_size=2)))
    counted = draw(st.dictionaries(st.sampled_from(COUNTS[gemini]), values | st.integers(0, 5000), max_size=4))
    chunks.append({"usageMetadata" if gemini else "usage": counted})
    end = draw(st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n"])).encode()
    between = draw(st.sampled_from([b"", b": ping\n", b"data:\n", b"id: 7\nevent: message\n", b"\n"]))
    body = b"".join(b"data: " + encoded(each) + end + between for each in chunks)
    if not gemini and draw(st.booleans()):
        body += b"data: [DONE]" + end
    kind = draw(st.sampled_from(["sse", "bom", "array", "lines"]))
    if kind == "bom":
        body = b"\xef\xbb\xbf" + body
    if kind in ("array", "lines"):
        joined = b",\r\n" if kind == "array" else b"\n"
        body = joined.join(map(encoded, chunks))
        body = b"[" + body + b"]" if kind == "array" else body
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    script = Script([(0.0005, each) for each in pieces if each], chunked=draw(st.booleans()))
    return "".join(texts), script


BESIDE: Final = {
    True: ("modelVersion", "responseId", "createTime", "x"),
    False: ("id", "model", "created", "object", "x"),
}
COUNTS: Final = {
    True: ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount"),
    False: ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"),
}


def chunk(gemini: bool, said: str | None, finish: str | None) -> dict[str, Any]:  # noqa: FBT001
    """One chunk of the usual shape."""
    if gemini:
        candidate: dict[str, Any] = {"content": {"parts": [{"text": said}] if said else []}}
        return {"candidates": [candidate | ({"finishReason": finish.upper()} if finish else {})]}
    return {"choices": [{"index": 0, "delta": {"content": said} if said else {}, "finish_reason": finish}]}


# --- answers that something has damaged -----------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> Case:
    """A case with lines dropped, doubled or swapped, bytes bitten off, or values replaced."""
    case = draw(st.sampled_from(CASES))
    lines = case.script.body.splitlines(keepends=True)
    for _ in range(draw(st.integers(0, 3))):
        if not lines:
            break
        at, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["drop", "double", "swap", "value", "bite", "insert"])):
            case "drop":
                del lines[at]
            case "double":
                lines.insert(other, lines[at])
            case "swap":
                lines[at], lines[other] = lines[other], lines[at]
            case "value":
                lines[at] = swapped(draw, lines[at])
            case "insert":
                lines.insert(at, draw(st.binary(max_size=12)) + b"\n")
            case _:
                raw, place = bytearray(lines[at]), draw(st.integers(0, len(lines[at])))
                raw[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
                lines[at] = bytes(raw)
    ending = draw(st.sampled_from(["clean", "reset", case.script.ending]))
    body = b"".join(lines)
    return replace(case, script=replace(case.script, pieces=[(0.0, body)] if body else [], ending=ending))


def swapped(draw: st.DrawFn, line: bytes) -> bytes:
    """A line of JSON with one value of it replaced by any other."""
    head, brace, rest = line.partition(b"{")
    try:
        document = json.loads(brace + rest)
    except ValueError:
        return line
    inside = document
    while isinstance(inside, (dict, list)) and inside:
        key = draw(st.sampled_from(list(inside) if isinstance(inside, dict) else range(len(inside))))
        if not isinstance(inside[key], (dict, list)) or not inside[key] or draw(st.integers(0, 3)) == 0:
            inside[key] = draw(values)
            break
        inside = inside[key]
    return head + encoded(document) + b"\n"


# --- the runs -------------------------------------------------------------------------------------------------------


class Lab:
    """One server and both adapters in a loop of their own."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        self._server: VendorServer = await self._stack.enter_async_context(vendor_server())
        self._adapters: dict[bool, Provider] = {g: adapter(self._server.url, gemini=g) for g in (True, False)}
        for each in self._adapters.values():
            self._stack.push_async_callback(each.aclose)
            await each.prepare()

    def close(self) -> None:
        self._runner.run(self._stack.aclose())

    def ask(self, script: Script, asked: ModelRequest) -> Outcome:
        self._server.script = script
        seen = self._runner.run(outcome(self._adapters[asked.provider == "gemini"], asked))
        usage = asked.spent[0]
        counts = (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens)
        assert [n for n in counts if n is not None and (type(n) is not int or n < 0)] == []
        assert (seen.last is None) is (seen.error is not None)
        return seen


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.long)])
def test_no_answer_breaks_an_adapter(count: int) -> None:
    """50,000 answers with `make fuzz`, some hundred always; two thirds are damaged, one third whole."""
    once = settings(max_examples=count // 3, derandomize=count == SAMPLE, database=None, deadline=None,
                    phases=[Phase.generate, Phase.shrink] if count == SAMPLE else [Phase.generate],
                    suppress_health_check=[*HealthCheck])  # fmt: skip
    with asyncio.Runner() as runner:
        lab = Lab(runner)
        runner.run(lab.open())

        @once
        @given(damaged())
        def any_damage(case: Case) -> None:
            """Any exception but ours fails in `outcome`."""
            lab.ask(case.script, request(case))

        @once
        @given(whole_answers(gemini=True))
        def whole_of_gemini(answer: tuple[str, Script]) -> None:
            seen = lab.ask(answer[1], request(Case("g-whole", answer[1])))
            assert (seen.error, seen.text) == (None, answer[0])

        @once
        @given(whole_answers(gemini=False))
        def whole_of_openai(answer: tuple[str, Script]) -> None:
            seen = lab.ask(answer[1], request(Case("o-whole", answer[1])))
            assert (seen.error, seen.text) == (None, answer[0])

        try:
            for part in (any_damage, whole_of_gemini, whole_of_openai):
                part()
        finally:
            lab.close()
