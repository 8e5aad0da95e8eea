"""What DeepSeek and OpenAI are sent, and what their chunks mean."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from daemon.domain.errors import Code, ModelClosed, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished, ModelRequest, Picture
from daemon.providers.openai_compatible import DIALECTS, Answer, arguments


def request(**changes: Any) -> ModelRequest:
    told: dict[str, Any] = {"provider": "openai", "model_name": "m", "system": "Be brief.", "prompt": "Hello"}
    return ModelRequest(**(told | changes))


def chunk(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def said(finish: str | None = None, **delta: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def folded(*payloads: bytes) -> tuple[list[Delta], Finished]:
    answer = Answer()
    deltas = [delta for payload in payloads for delta in answer.take(payload)]
    return deltas, answer.finished()


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


def test_text_and_thoughts_are_told_apart_and_role_chunks_are_silent() -> None:
    deltas, last = folded(
        said(role="assistant", content=""), said(reasoning_content="hm"), said(content="a"), said(content=None),
        said("stop", content="b"), b"[DONE]",
    )  # fmt: skip
    assert deltas == [Delta(Channel.REASONING, "hm"), Delta(Channel.TEXT, "a"), Delta(Channel.TEXT, "b")]
    assert last.reason == "stop"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"prompt_tokens": 100, "completion_tokens": 50, "prompt_cache_hit_tokens": 64,
             "completion_tokens_details": {"reasoning_tokens": 20}},
            Usage(100, 64, 50, 20),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3},
             "completion_tokens_details": None},
            Usage(10, 3, 5, None),
        ),
        ({"prompt_tokens": None}, Usage()),
        (None, Usage()),
        ({"prompt_tokens": -1, "completion_tokens": -5}, Usage()),
        ({"prompt_tokens": 10**30, "completion_tokens": 10**400}, Usage()),
        ({"prompt_tokens": "12", "completion_tokens": 3.0}, Usage(12, None, 3, None)),
        ({"prompt_tokens": "many", "completion_tokens": [1], "prompt_tokens_details": 7}, Usage()),
        ({"prompt_tokens": 7, "completion_tokens": True}, Usage(7)),
        ("nothing", Usage()),
    ],
)  # fmt: skip
def test_usage_has_one_name_for_both_vendors(usage: Any, expected: Usage) -> None:
    """It comes in a last chunk without choices."""
    _, last = folded(said("stop", content="x"), chunk(id="c1", model="m-1", choices=[], usage=usage), b"[DONE]")
    assert last.usage == expected
    assert (last.model_name, last.request_id) == ("m-1", "c1")


@pytest.mark.parametrize(
    ("payloads", "code"),
    [
        ([said(content="half")], Code.LLM_ERROR),
        ([said(content="half"), b"[DONE]"], Code.LLM_ERROR),
        ([said("content_filter", content="half")], Code.LLM_REFUSED),
        ([said(refusal="I can't"), said("stop")], Code.LLM_REFUSED),
        ([said("stop")], Code.LLM_BAD_OUTPUT),
        ([said("length", reasoning_content="only thoughts")], Code.LLM_BAD_OUTPUT),
        ([said("tool_calls", content="x")], Code.LLM_ERROR),
        ([said("insufficient_system_resource", content="half")], Code.LLM_ERROR),
        ([said(content="half"), chunk(error={"code": "rate_limit_exceeded", "message": "x"})], Code.LLM_ERROR),
        ([chunk(error={"type": "server_error"})], Code.LLM_ERROR),
        ([chunk(error={"code": 400, "message": "Content Exists Risk"})], Code.LLM_REFUSED),
    ],
)
def test_what_is_no_answer_is_an_error(payloads: list[bytes], code: Code) -> None:
    with pytest.raises(ProviderError) as raised:
        folded(*payloads)
    assert raised.value.code is code
    assert not isinstance(raised.value, ModelClosed)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (said("insufficient_system_resource"), "OVERLOADED"),
        (chunk(error={"code": 429}), "RATE_LIMITED"),
        (chunk(error={"type": "insufficient_quota"}), "QUOTA"),
    ],
)
def test_a_model_can_close_inside_a_stream_before_its_first_word(payload: bytes, reason: str) -> None:
    with pytest.raises(ModelClosed) as raised:
        folded(payload)
    assert raised.value.reason == reason


@pytest.mark.parametrize("payload", [b'{"choices": [{"del', b"[]", chunk(choices=[{"delta": {"content": 7}}])])
def test_what_can_not_be_read_is_a_decode_error(payload: bytes) -> None:
    """`generate` makes an LLM_ERROR of it."""
    with pytest.raises(msgspec.DecodeError):
        Answer().take(payload)


def test_a_break_after_the_finish_reason_is_no_error() -> None:
    answer = Answer()
    answer.take(said(content="x"))
    assert answer.cut(OSError()) is not None
    answer.take(said("stop"))
    assert answer.cut(OSError()) is None
