"""What chunks of OpenAI-compatible vendors mean, of the usual shape and of others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.domain.errors import Code, ModelUnavailable, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished
from daemon.providers.openai_answer import OpenAIAnswer


def chunk(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def said(finish: str | None = None, **delta: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def folded(*payloads: bytes) -> tuple[list[Delta], Finished]:
    answer = OpenAIAnswer()
    deltas = [delta for payload in payloads for delta in answer.take(payload)]
    return deltas, answer.finished()


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
        ([b"[DONE]"], Code.LLM_BAD_OUTPUT),
        ([said("content_filter", content="half")], Code.LLM_REFUSED),
        ([said(refusal="I can't"), said("stop")], Code.LLM_REFUSED),
        ([said("stop")], Code.LLM_BAD_OUTPUT),
        ([said("length", reasoning_content="only thoughts")], Code.LLM_BAD_OUTPUT),
        ([said("error", content="x")], Code.LLM_ERROR),
        ([said("tool_calls")], Code.LLM_BAD_OUTPUT),
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
    assert not isinstance(raised.value, ModelUnavailable)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (said("insufficient_system_resource"), "OVERLOADED"),
        (chunk(error={"code": 429}), "RATE_LIMITED"),
        (chunk(error={"type": "insufficient_quota"}), "QUOTA"),
    ],
)
def test_a_model_can_close_inside_a_stream_before_its_first_word(payload: bytes, reason: str) -> None:
    with pytest.raises(ModelUnavailable) as raised:
        folded(payload)
    assert raised.value.reason == reason


@pytest.mark.parametrize("payload", [b'{"choices": [{"del', b'{"choices": [{"delta": {"content": "x"}}]'])
def test_what_can_not_be_read_fails_with_the_next_payload_or_the_end(payload: bytes) -> None:
    """A hole in the text is worse than another try."""
    for more in ([said("stop", content="x")], []):
        with pytest.raises(ProviderError) as raised:
            folded(payload, *more)
        assert raised.value.code is Code.LLM_ERROR


def test_a_break_after_the_finish_reason_is_no_error() -> None:
    answer = OpenAIAnswer()
    answer.take(said(content="x"))
    assert answer.cut(OSError()) is not None
    answer.take(said("stop"))
    assert answer.cut(OSError()) is None
