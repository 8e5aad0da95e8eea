"""One word of ours, each vendor's fields."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.domain.model_io import Reasoning
from daemon.providers.reasoning import gemini_config, openai_fields


@pytest.mark.parametrize(
    ("vendor", "reasoning", "fields"),
    [
        ("openai", "off", {"reasoning_effort": "none"}),
        ("openai", "low", {"reasoning_effort": "low"}),
        ("openai", "high", {"reasoning_effort": "high"}),
        ("deepseek", "off", {"extra_body": {"thinking": {"type": "disabled"}}}),
        ("deepseek", "medium", {"reasoning_effort": "medium", "extra_body": {"thinking": {"type": "enabled"}}}),
    ],
)
def test_chat_completions_have_an_effort_and_deepseek_a_switch(
    vendor: str, reasoning: Reasoning, fields: dict[str, Any]
) -> None:
    assert openai_fields(vendor, reasoning) == fields


@pytest.mark.parametrize(
    ("model", "reasoning", "fields"),
    [
        ("gemini-2.5-flash", "off", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024}),
        ("models/gemini-2.5-pro", "high", {"thinkingBudget": 24576}),
        ("gemini-3.5-flash-lite", "off", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.8-flash", "low", {"thinkingLevel": "LOW"}),
        ("gemini-4-argon", "medium", {"thinkingLevel": "MEDIUM"}),
        ("gemini-4-argon", "off", {"thinkingBudget": 0}),
        ("gemini-flash-latest", "high", {"thinkingLevel": "HIGH"}),
    ],
)
def test_gemini_has_a_budget_or_a_level_and_never_both(
    model: str, reasoning: Reasoning, fields: dict[str, Any]
) -> None:
    found = gemini_config(model, reasoning).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert found == fields
