"""What is committed of an answer."""

from __future__ import annotations

import pytest

from daemon.calls import Finished
from daemon.contracts import Usage, content_sha256
from daemon.pipeline.execute import Answer
from daemon.pipeline.write import result_of
from daemon.services import Model
from daemon.services.book import Price

ANSWER = Answer('{"a": 1}', Finished("stop", Usage(1_000_000, 0, 500_000)), 12.5)


def test_the_raw_text_is_kept_beside_its_hash_and_its_document() -> None:
    """`contentSha256` is over what the model said, whatever was parsed out of it."""
    draft = result_of(ANSWER, {"a": 1}, Model("m", "openai", "gpt"))
    assert (draft.content, draft.data, draft.content_sha256) == (ANSWER.text, {"a": 1}, content_sha256(ANSWER.text))
    assert (draft.model_id, draft.first_token_at) == ("m", 12.5)


def test_the_price_is_the_models() -> None:
    """Unknown without a price in the services file, which is not zero."""
    assert result_of(ANSWER, None, Model("m", "openai", "gpt")).usage.cost_usd is None
    priced = Model("m", "openai", "gpt", price=Price(input=2, cached_input=1, output=4))
    assert result_of(ANSWER, None, priced).usage.cost_usd == 4.0


def test_a_price_that_cannot_be_worked_out_voids_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is paid for: its text is kept, its cost is unknown."""

    def cost(model: Model, usage: Usage) -> Usage:
        raise ZeroDivisionError

    monkeypatch.setattr("daemon.pipeline.write.cost", cost)
    draft = result_of(ANSWER, None, Model("m", "openai", "gpt"))
    assert (draft.content, draft.usage.output_tokens, draft.usage.cost_usd) == (ANSWER.text, 500_000, None)
