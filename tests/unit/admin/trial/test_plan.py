"""A trial costs less than a cent, whatever stands in the services file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import services
from daemon.admin.trial.plan import COST_MAX_USD, OUTPUT_TOKENS, PROMPT_TOKENS_MAX, cost_max_usd, plan
from daemon.services import Model, Price

KEYS = {"openai": "", "gemini": "GEMINI_API_KEY"}
prices = st.builds(Price, st.floats(0, 200), st.floats(0, 200), st.floats(0, 900))


def model(name: str, price: Price | None, provider: str = "openai") -> Model:
    return Model(name, provider, name, prices=(price,) if price else ())


@given(st.lists(st.none() | prices, max_size=40))
def test_all_calls_together_stay_below_a_cent(found: list[Price | None]) -> None:
    """Counted with every token that a call may read and write."""
    planned = plan([model(f"m{n}", price) for n, price in enumerate(found)], KEYS)
    assert cost_max_usd(planned) <= COST_MAX_USD + 1e-12
    for entry in planned:
        price = entry.model.price
        if entry.output_tokens and price is not None:
            assert OUTPUT_TOKENS[0] <= entry.output_tokens <= OUTPUT_TOKENS[1]
            worst = 2 * (PROMPT_TOKENS_MAX * price.input + entry.output_tokens * price.output) / 1e6
            assert entry.cost_max_usd == pytest.approx(worst)


def test_the_shipped_models_are_all_called() -> None:
    catalog = services.load(None, deep=False)
    planned = plan(list(catalog.models.values()), dict.fromkeys(("deepseek", "openai", "gemini"), ""))
    assert all(entry.output_tokens >= 256 for entry in planned)


def test_cheap_models_are_called_though_a_dear_one_is_not() -> None:
    dear, cheap = plan([model("dear", Price(100, 100, 900)), model("cheap", Price(0.1, 0.1, 0.5))], KEYS)
    assert (dear.output_tokens, "more than $0.01" in dear.why) == (0, True)
    assert cheap.output_tokens == OUTPUT_TOKENS[1]


def test_a_model_without_a_price_is_called_alone() -> None:
    """Its calls are bounded by a price above any that we know."""
    [alone] = plan([model("new", None)], KEYS)
    assert alone.output_tokens >= OUTPUT_TOKENS[0]
    both = plan([model("new", None), model("cheap", Price(0.1, 0.1, 0.5))], KEYS)
    assert "--model" in both[0].why or both[0].output_tokens


def test_a_model_without_a_key_is_not_called_and_the_key_is_named() -> None:
    [entry] = plan([model("g", Price(0, 0, 0), "gemini")], KEYS)
    assert (entry.output_tokens, entry.why) == (0, "GEMINI_API_KEY is not set")
