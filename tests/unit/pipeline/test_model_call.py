"""The model call, with a provider that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from daemon.domain.errors import Code, LeaseLost, ModelUnavailable, ProviderError
from daemon.domain.events import Channel, EventDraft, Usage
from daemon.domain.messages import content_sha256
from daemon.domain.model_io import Finished, ModelRequest
from daemon.pipeline.call_scope import CallScope
from daemon.pipeline.model_call import ModelAnswer, ask_model, result_of
from daemon.pipeline.timeouts import Timeouts
from daemon.ports import DeltaWriter
from daemon.services import Model
from daemon.services.prices import Price
from tests.fakes import USAGE, ScriptedProvider, Step, finished, text, thought
from tests.virtual_time import LoopClock, in_virtual_time

LIMITS = Timeouts(first_token_s=10, idle_s=5, total_s=30)


class Page(DeltaWriter):
    """What a viewer would see."""

    def __init__(self) -> None:
        self.seen: list[tuple[Channel, str]] = []

    def push(self, channel: Channel, text: str) -> None:
        self.seen.append((channel, text))

    async def flush(self) -> None:
        raise AssertionError

    async def close(self) -> list[EventDraft]:
        raise AssertionError

    def abandon(self) -> None:
        raise AssertionError


async def ask(
    *script: Step, stream: bool = True, page: Page | None = None, scope: CallScope | None = None
) -> tuple[ModelAnswer, ScriptedProvider]:
    provider = ScriptedProvider(script)
    request = ModelRequest("deepseek", "m", "", "hello", stream=stream)
    try:
        answer = await ask_model(request, provider, scope or CallScope(), LIMITS, page, LoopClock())
    finally:
        assert provider.open == 0, "the socket outlived the call"
    return answer, provider


@in_virtual_time
async def test_text_is_the_answer_and_everything_is_shown() -> None:
    """Thinking aloud is shown, and is no part of the answer; the first token has its time."""
    page = Page()
    answer, _ = await ask(2, thought("hm"), 1, text("the "), text("answer"), finished(), page=page)
    assert answer == ModelAnswer("the answer", finished(), 1_700_000_000 + 1002)
    assert answer.finished.usage == USAGE
    assert page.seen == [(Channel.REASONING, "hm"), (Channel.TEXT, "the "), (Channel.TEXT, "answer")]


@in_virtual_time
async def test_a_batch_answer_has_no_first_token() -> None:
    """It comes whole: the clock between tokens does not apply to it, and its first delta says nothing about speed."""
    answer, _ = await ask(25, text("all of it"), finished("length"), stream=False)
    assert answer == ModelAnswer("all of it", finished("length"), None)


@pytest.mark.parametrize(
    ("script", "code", "detail"),
    [
        ((text("half"),), Code.LLM_ERROR, "without a finish reason"),
        ((thought("hm"), text(" \n"), finished()), Code.LLM_BAD_OUTPUT, "finish reason stop"),
        ((finished("length"),), Code.LLM_BAD_OUTPUT, "finish reason length"),
        ((11, text("late"), finished()), Code.LLM_TIMEOUT, "first token"),
        ((text("a"), 6, text("late"), finished()), Code.LLM_TIMEOUT, "no token"),
    ],
)
def test_what_is_no_answer_is_an_error_with_its_code(script: Sequence[Step], code: Code, detail: str) -> None:
    """Cut, refused, empty or silent: each has a name, and the socket is closed."""

    @in_virtual_time
    async def run() -> None:
        with pytest.raises(ProviderError) as caught:
            await ask(*script)
        assert caught.value.code is code
        assert detail in caught.value.detail

    run()


@pytest.mark.parametrize(("before", "midway"), [((), False), ((text("half"),), True)])
def test_a_refusal_knows_whether_the_answer_had_begun(before: Sequence[Step], *, midway: bool) -> None:
    """Before the first word another model may be asked; after it the text is on the viewer's page."""

    @in_virtual_time
    async def run() -> None:
        with pytest.raises(ModelUnavailable) as caught:
            await ask(*before, ModelUnavailable("RATE_LIMITED"))
        assert caught.value.midway is midway

    run()


@in_virtual_time
async def test_an_interruption_closes_the_socket_and_gives_its_reason() -> None:
    """Tokens are not paid for longer than needed."""
    scope = CallScope()
    asyncio.get_running_loop().call_later(2, scope.interrupt, LeaseLost("gone"))
    with pytest.raises(LeaseLost):
        await ask(text("a"), 4, text("b"), scope=scope)
    with pytest.raises(LeaseLost):
        await ask(text("never"), scope=scope)


@in_virtual_time
async def test_what_is_shown_is_what_can_be_stored() -> None:
    """NUL and lone surrogates, which Postgres can't hold, never reach viewer, row or hash."""
    page = Page()
    answer, _ = await ask(text("a\x00b"), text("é\x00\ud800"), text("😀"), finished(), page=page)
    assert answer.text == "".join(shown for _, shown in page.seen) == "abé\ufffd😀"
    answer.text.encode()


AT = 1_780_000_000.0
ANSWER = ModelAnswer('{"a": 1}', Finished("stop", Usage(1_000_000, 0, 500_000)), 12.5)


def test_the_raw_text_is_kept_beside_its_hash_and_its_document() -> None:
    """`contentSha256` is over what the model said, whatever was parsed out of it."""
    draft = result_of(ANSWER, {"a": 1}, Model("m", "openai", "gpt"), AT)
    assert (draft.content, draft.data, draft.content_sha256) == (ANSWER.text, {"a": 1}, content_sha256(ANSWER.text))
    assert (draft.model_id, draft.first_token_at) == ("m", 12.5)


def test_the_price_is_the_models() -> None:
    """Unknown without a price in the services file, which is not zero."""
    assert result_of(ANSWER, None, Model("m", "openai", "gpt"), AT).usage.cost_usd is None
    priced = Model("m", "openai", "gpt", prices=(Price(input=2, cached_input=1, output=4),))
    assert result_of(ANSWER, None, priced, AT).usage.cost_usd == 4.0


def test_a_price_that_cannot_be_worked_out_voids_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is paid for: its text is kept, its cost is unknown."""

    def cost(model: Model, usage: Usage, at: float) -> Usage:
        raise ZeroDivisionError

    monkeypatch.setattr("daemon.pipeline.model_call.cost", cost)
    draft = result_of(ANSWER, None, Model("m", "openai", "gpt"), AT)
    assert (draft.content, draft.usage.output_tokens, draft.usage.cost_usd) == (ANSWER.text, 500_000, None)
