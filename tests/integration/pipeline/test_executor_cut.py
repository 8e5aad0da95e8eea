"""Answers that hit their limit, and what attempts without an answer have cost, on real servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.domain.errors import Code, LeaseLost, ProviderError, TaskError
from daemon.domain.events import Usage
from daemon.pipeline.outcome import Done, Failed, Fenced, Retrying
from tests.fakes import ANSWER, USAGE, finished, text
from tests.integration.pipeline.conftest import Bench, Process, message
from tests.waiting import wait_until

CUT = (text('{"score": 5, "why": "beca'), finished("length"))
JSON = (text('{"score": 5}'), finished())
SPENT = Usage(input_tokens=100, output_tokens=7)


async def begun(bench: Bench, process: Process, **fields: Any) -> object:
    """The outcome of the first delivery."""
    await bench.accept(message(**fields))
    return await process.run(await process.fetch())


async def usages(bench: Bench) -> list[dict[str, object] | None]:
    """Of the attempts, in order."""
    rows = await bench.pool.fetch("SELECT usage FROM qstreamd.attempts ORDER BY attempt")
    return [row["usage"] and {k: v for k, v in row["usage"].items() if v is not None} for row in rows]


async def costs(bench: Bench) -> None:
    """Returns when the first call has cost something."""
    planned = bench.provider.of["t1"]
    await wait_until(lambda: planned.calls and planned.calls[0].spent, description="the call costs")


async def test_a_text_that_was_cut_says_so_everywhere(bench: Bench) -> None:
    """In the event, in the row, and in the metric."""
    bench.plan("t1", (text("Dear team, I am writing to"), finished("length")))
    a = bench.process()
    assert isinstance(await begun(bench, a), Done)
    assert (await bench.events())[-1].data["finishReason"] == "length"
    assert (await bench.results())[0]["finish_reason"] == "length"


async def test_json_that_was_cut_is_asked_of_the_next_model(bench: Bench) -> None:
    """The same call would be cut again; what failed is what an operator can change."""
    calls = bench.plan("t1", CUT, JSON)
    a = bench.process()
    assert await begun(bench, a, service_id="json_two") == Retrying(Code.LLM_BAD_OUTPUT, 0.001)
    assert await bench.finish_all(a) == [Done("n", USAGE)]
    assert [call.model_name for call in calls.calls] == ["m-1", "n-1"]
    assert (await bench.results())[0]["data"] == {"score": 5}


async def test_json_that_every_model_cuts_ends_the_task(bench: Bench) -> None:
    """One call each, though the service allows three failures; the end says what all of them cost."""
    calls = bench.plan("t1", CUT)
    a = bench.process()
    await begun(bench, a, service_id="json_two")
    assert await bench.finish_all(a) == [Failed(Code.LLM_BAD_OUTPUT)]
    assert [call.model_name for call in calls.calls] == ["m-1", "n-1"]
    end = (await bench.events())[-1].data
    assert (end["code"], end["retryable"], end["usage"]["inputTokens"]) == ("LLM_BAD_OUTPUT", False, 22)
    assert "max_output_tokens = 64" in (await bench.letters())[0]["reason"]


async def test_an_empty_answer_at_the_limit_is_not_asked_for_again_either(bench: Bench) -> None:
    """Thinking has used it up; the adapter says so."""
    empty = ProviderError(code=Code.LLM_BAD_OUTPUT, detail="empty answer, finish_reason=length")
    empty.cut = True
    calls = bench.plan("t1", (empty,), ANSWER)
    a = bench.process()
    assert await begun(bench, a) == Failed(Code.LLM_BAD_OUTPUT)
    assert len(calls.calls) == 1


async def test_json_that_is_whole_in_spite_of_its_limit_is_an_answer(bench: Bench) -> None:
    bench.plan("t1", (text('{"score": 5}  '), finished("length")))
    assert isinstance(await begun(bench, bench.process(), service_id="json_two"), Done)
    assert json.loads((await bench.results())[0]["content"]) == {"score": 5}


async def test_a_failed_attempt_records_what_is_known(bench: Bench) -> None:
    bench.plan("t1", (text("half"), SPENT, ProviderError()), (ProviderError(),), ANSWER)
    a = bench.process()
    await begun(bench, a)
    await bench.finish_all(a)
    assert await usages(bench) == [{"inputTokens": 100, "outputTokens": 7}, None, {**_told(USAGE)}]


def _told(usage: Usage) -> dict[str, object]:
    return {"inputTokens": usage.input_tokens, "cachedInputTokens": usage.cached_input_tokens,
            "outputTokens": usage.output_tokens, "reasoningTokens": usage.reasoning_tokens}  # fmt: skip


async def test_the_end_sums_what_all_attempts_have_cost(bench: Bench) -> None:
    bench.plan("t1", (SPENT, ProviderError()), (ProviderError(),), (Usage(output_tokens=3), ProviderError()))
    a = bench.process()
    await begun(bench, a)
    await bench.finish_all(a)
    end = (await bench.events())[-1].data
    assert (end["retryable"], end["usage"]["inputTokens"], end["usage"]["outputTokens"]) == (False, 100, 10)
    assert end["usage"]["costUsd"] is None


async def test_a_cancelled_attempt_records_what_is_known(bench: Bench) -> None:
    bench.plan("t1", (text("half"), SPENT, 5.0))
    a = bench.process()
    await bench.accept(message())
    in_flight = await a.fetch()
    work = a.start(in_flight)
    await costs(bench)
    in_flight.scope.interrupt(TaskError(code=Code.CANCELLED))
    assert await work == Failed(Code.CANCELLED)
    assert await usages(bench) == [{"inputTokens": 100, "outputTokens": 7}]


@pytest.mark.parametrize("stolen", [True, False])
async def test_a_fenced_attempt_records_what_is_known(bench: Bench, *, stolen: bool) -> None:
    """Whether the row is still its own or another attempt's by now."""
    bench.plan("t1", (text("half"), SPENT, 0.4, finished()), ANSWER)
    a, b = bench.process("a"), bench.process("b")
    await bench.accept(message())
    in_flight = await a.fetch()
    work = a.start(in_flight)
    await costs(bench)
    if stolen:
        (taken,) = await b.take_over()
        assert isinstance(await b.run(taken), Done)
    in_flight.scope.interrupt(LeaseLost("no good beat"))
    outcome = await work
    assert (outcome == Fenced()) is stolen
    assert (await usages(bench))[0] == {"inputTokens": 100, "outputTokens": 7}
    await bench.finish_all(b)
