"""A model that refuses a parameter is asked again without it, in the same attempt, and is not sent it again."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from daemon.domain.errors import Code, ProviderError
from daemon.limiter.rates import requests
from daemon.pipeline.outcome import Done, Failed
from daemon.redis_client import keys
from tests.fakes import ANSWER, USAGE
from tests.integration.pipeline.conftest import BOOK, Bench, Process, message

pytestmark = pytest.mark.usefixtures("no_key_left")
A_MINUTE = 60


def refused(parameter: str) -> ProviderError:
    """A 400 that names `parameter`."""
    error = ProviderError(code=Code.LLM_REFUSED, detail="status=400 unsupported_value")
    error.parameter = parameter
    return error


async def run_one(bench: Bench, process: Process, task_id: str = "t1") -> object:
    """One accepted task, run to its end."""
    await bench.accept(message(task_id))
    return await process.run(await process.fetch())


async def test_a_refused_parameter_is_left_out_and_remembered(bench: Bench) -> None:
    """Two calls and one attempt; the next task of the process makes one call."""
    bench.plan("t1", (refused("temperature"),), ANSWER)
    a = bench.process()
    assert await run_one(bench, a) == Done("m", USAGE)
    assert [call.omit for call in bench.provider.of["t1"].calls] == [frozenset(), {"temperature"}]
    assert await bench.attempts() == [(1, "done", None)]
    assert await run_one(bench, a, "t2") == Done("m", USAGE)
    assert [call.omit for call in bench.provider.of["t2"].calls] == [{"temperature"}]


async def test_two_refused_parameters_are_two_further_calls(bench: Bench) -> None:
    """A model says what it refuses one by one."""
    bench.plan("t1", (refused("temperature"),), (refused("user_tag"),), ANSWER)
    assert await run_one(bench, bench.process()) == Done("m", USAGE)
    assert [len(call.omit) for call in bench.provider.of["t1"].calls] == [0, 1, 2]


async def test_a_model_that_refuses_what_was_not_sent_ends_the_task(bench: Bench) -> None:
    """No call is repeated for ever."""
    bench.plan("t1", (refused("temperature"),), (refused("temperature"),))
    assert await run_one(bench, bench.process()) == Failed(Code.LLM_REFUSED)
    assert len(bench.provider.of["t1"].calls) == 2


async def test_the_second_call_counts_against_the_rate_of_the_model(bench: Bench) -> None:
    """One request is reserved on the way in; the other one is charged on the way out."""
    model = replace(BOOK.models["m"], requests_per_minute=A_MINUTE)
    catalog = replace(BOOK, models=MappingProxyType({**BOOK.models, "m": model}))
    bench.plan("t1", (refused("temperature"),), ANSWER)
    a = bench.process()
    a.with_(catalog=lambda: catalog)
    assert await run_one(bench, a) == Done("m", USAGE)
    seconds, micros = await a.client.time()
    paid_off_ms = float(await a.client.get(keys.model_keys("m").rpm) or 0) - (seconds * 1000 + micros / 1000)
    each_ms = requests(A_MINUTE).each_ms
    assert each_ms < paid_off_ms <= 2 * each_ms
