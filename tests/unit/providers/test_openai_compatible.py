"""What DeepSeek and OpenAI are sent."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.domain.model_io import ModelRequest, Picture
from daemon.providers.openai_compatible import DIALECTS, arguments


def request(**changes: Any) -> ModelRequest:
    told: dict[str, Any] = {"provider": "openai", "model_name": "m", "system": "Be brief.", "prompt": "Hello"}
    return ModelRequest(**(told | changes))


def test_a_plain_call_names_model_and_messages_only() -> None:
    assert arguments(DIALECTS["openai"], request(stream=False)) == {
        "model": "m", "stream": False,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    }  # fmt: skip


def test_the_vendors_differ_in_two_fields() -> None:
    """The token limit and the tag of the user have other names; a stream asks for its usage."""
    asked = request(max_output_tokens=9, user_tag="t", temperature=0.0, system="")
    openai, deepseek = arguments(DIALECTS["openai"], asked), arguments(DIALECTS["deepseek"], asked)
    assert (openai["max_completion_tokens"], openai["safety_identifier"]) == (9, "t")
    assert (deepseek["max_tokens"], deepseek["user"]) == (9, "t")
    assert openai["temperature"] == 0.0
    assert openai["stream_options"] == {"include_usage": True}
    assert openai["messages"] == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(("prompt", "added"), [("Hello", True), ("Answer in JSON", False)])
def test_json_mode_says_the_word_json(prompt: str, *, added: bool) -> None:
    """Both vendors refuse JSON mode when no message holds the word."""
    found = arguments(DIALECTS["deepseek"], request(prompt=prompt, json_output=True))
    assert found["response_format"] == {"type": "json_object"}
    assert ("JSON" in found["messages"][0]["content"]) is added


def test_pictures_travel_inline() -> None:
    found = arguments(DIALECTS["openai"], request(pictures=(Picture("image/png", b"\x00\xff"),)))
    text, picture = found["messages"][-1]["content"]
    assert text == {"type": "text", "text": "Hello"}
    assert picture["image_url"]["url"] == "data:image/png;base64,AP8="
