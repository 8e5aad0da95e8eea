from __future__ import annotations

import dataclasses

import pytest

from daemon.domain.events import Usage
from daemon.domain.queues import Tier
from daemon.services import Model, Price, cost, load
from daemon.services.catalog import is_template_ref, nearest

AT = 1_780_000_000.0
PRICED = Model("m", "openai", "gpt", prices=(Price(input=0.30, cached_input=0.03, output=1.20),))


def test_cost_counts_cached_input_apart() -> None:
    """1000 tokens in, 400 of them cached, 500 out: 180 + 12 + 600 millionths of a dollar."""
    usage = Usage(input_tokens=1000, cached_input_tokens=400, output_tokens=500, reasoning_tokens=200)
    assert cost(PRICED, usage, AT).cost_usd == 0.000792
    assert cost(PRICED, usage, AT).reasoning_tokens == 200


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        (Usage(0, 0, 0), 0.0),
        (Usage(input_tokens=1, output_tokens=0), 0.0000003),
        (Usage(input_tokens=1, cached_input_tokens=1, output_tokens=0), 0.00000003),
        (
            Usage(input_tokens=5, cached_input_tokens=9, output_tokens=0),
            0.00000015,
        ),  # a vendor that counts apart never makes it negative
        (Usage(input_tokens=123_456_789, output_tokens=987_654_321), 1222.2222219),
    ],
)
def test_cost_is_exact_from_one_token_to_a_billion(usage: Usage, usd: float) -> None:
    assert cost(PRICED, usage, AT).cost_usd == usd


@pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=5), Usage(output_tokens=5)])
def test_the_cost_of_unknown_tokens_is_unknown(usage: Usage) -> None:
    """Null, not zero: a report that adds it up as free would be wrong."""
    assert cost(PRICED, usage, AT).cost_usd is None


def test_without_a_price_the_cost_is_unknown() -> None:
    """Unknown is not zero, even where a vendor filled something in."""
    assert cost(Model("m", "openai", "gpt"), Usage(input_tokens=5, cost_usd=1.0), AT).cost_usd is None


def test_models_for_a_tier_come_default_first() -> None:
    catalog = load()
    review = catalog.services["resume-review"]
    assert [m.id for m in catalog.models_for(review, Tier.PAID)] == ["deepseek-pro", "gemini-flash"]
    assert [m.id for m in catalog.models_for(review, Tier.FREE)] == ["deepseek-flash"]


def test_templates_that_the_store_does_not_have_are_mistakes() -> None:
    catalog = load()
    assert catalog.templates == frozenset()
    assert catalog.unknown_templates(()) == []
    stored = dataclasses.replace(catalog.services["job-match"], prompt=None, template="job-macth@2")
    catalog = dataclasses.replace(catalog, services={"job-match": stored})
    assert catalog.templates == {"job-macth@2"}
    assert catalog.unknown_templates({"job-macth@2"}) == []
    (line,) = catalog.unknown_templates({"job-match@2"})
    assert line.startswith("services.toml: [services.job-match] template: 'job-macth@2' is not in prompt_templates")
    assert line.endswith('; did you mean "job-match@2"?; known: job-match@2')
    assert catalog.unknown_templates(())[0].endswith("known: none")


def test_a_template_is_named_by_name_and_perhaps_version() -> None:
    assert all(map(is_template_ref, ("a", "a.b-c_D@12", "9@1")))
    assert not any(map(is_template_ref, ("", "a@", "@1", "a@1@2", "a b", "a\n", "x" * 65)))


def test_nothing_near_suggests_nothing() -> None:
    assert nearest("zzz", ["abc"]) == ""
