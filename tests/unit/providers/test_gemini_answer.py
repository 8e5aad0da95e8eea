"""What chunks of Gemini mean, of the usual shape and of others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.domain.errors import Code, ModelUnavailable, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished
from daemon.providers.answer import FINISHES
from daemon.providers.gemini_answer import GeminiAnswer, refusal


def said(*texts: str, finish: str | None = None, **more: Any) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": t} for t in texts]}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return json.dumps({"candidates": [candidate], **more}).encode()


def folded(*payloads: bytes) -> tuple[list[Delta], Finished]:
    answer = GeminiAnswer()
    deltas = [delta for payload in payloads for delta in answer.take(payload)]
    return deltas, answer.finished()


def test_text_thoughts_and_usage() -> None:
    thought = json.dumps({"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}, {}]}}]}).encode()
    usage = {"promptTokenCount": 10, "toolUsePromptTokenCount": 2, "cachedContentTokenCount": 4,
             "candidatesTokenCount": 7, "thoughtsTokenCount": 3}  # fmt: skip
    last_chunk = said("b", finish="STOP", usageMetadata=usage, modelVersion="m-2", responseId="r1")
    deltas, last = folded(thought, said("a"), last_chunk)
    assert deltas == [Delta(Channel.REASONING, "hm"), Delta(Channel.TEXT, "a"), Delta(Channel.TEXT, "b")]
    assert last == Finished("stop", Usage(12, 4, 10, 3), "m-2", "r1")


@pytest.mark.parametrize(
    ("counted", "usage"),
    [
        ({"promptTokenCount": -3, "candidatesTokenCount": -1, "thoughtsTokenCount": -1}, Usage()),
        ({"promptTokenCount": "10", "candidatesTokenCount": 10**30}, Usage(10)),
        ({"candidatesTokenCount": 7, "thoughtsTokenCount": "lots"}, Usage(None, None, 7, None)),
        ({"thoughtsTokenCount": 3}, Usage(None, None, 3, 3)),
        (None, Usage()),
        ([], Usage()),
        ("ten", Usage()),
    ],
)
def test_a_count_that_makes_no_sense_is_unknown_and_voids_nothing(counted: Any, usage: Usage) -> None:
    """The text beside it is whole."""
    deltas, last = folded(said("a", finish="STOP", usageMetadata=counted))
    assert [delta.text for delta in deltas] == ["a"]
    assert last.usage == usage


def test_a_limit_is_no_error() -> None:
    assert folded(said("a", finish="MAX_TOKENS"))[1].reason == "length"


def of_the_sdk(*meanings: str) -> list[str]:
    """The finish reasons that the SDK knows and that mean one of these to us."""
    from google.genai import types

    return sorted(r.value for r in types.FinishReason if FINISHES.get(r.value.lower()) in meanings)


@pytest.mark.parametrize("finish", of_the_sdk("filtered"))
def test_blocked_answers_are_refused(finish: str) -> None:
    """They come as 200 and would come again."""
    with pytest.raises(ProviderError) as raised:
        folded(said("a"), said(finish=finish))
    assert raised.value.code is Code.LLM_REFUSED


def test_a_blocked_prompt_is_refused() -> None:
    """No candidates and no exception: only the feedback says it."""
    with pytest.raises(ProviderError) as raised:
        folded(b'{"promptFeedback": {"blockReason": "SAFETY"}}')
    assert raised.value.code is Code.LLM_REFUSED


@pytest.mark.parametrize("finish", of_the_sdk("failed"))
def test_a_models_slip_may_be_tried_again(finish: str) -> None:
    with pytest.raises(ProviderError) as raised:
        folded(said("a", finish=finish))
    assert raised.value.code is Code.LLM_ERROR


def test_a_finish_reason_that_nobody_knows_ends_a_text_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    """The text is paid for; the log says what to look up."""
    assert folded(said("a", finish="SOMETHING_NEW"))[1].reason is None
    assert folded(said("a", finish="FINISH_REASON_UNSPECIFIED"))[1].reason is None
    with pytest.raises(ProviderError):
        folded(said("a", finish="FINISH_REASON_UNSPECIFIED"), said("b"))
    assert "something_new" in capfd.readouterr().err
    with pytest.raises(ProviderError) as raised:
        folded(said(finish="SOMETHING_NEW"))
    assert raised.value.code is Code.LLM_BAD_OUTPUT
    assert "SOMETHING_NEW" not in raised.value.detail


@pytest.mark.parametrize(
    ("payloads", "code"),
    [([said("half")], Code.LLM_ERROR), ([], Code.LLM_ERROR), ([said(finish="STOP")], Code.LLM_BAD_OUTPUT)],
)
def test_what_is_no_answer_is_an_error(payloads: list[bytes], code: Code) -> None:
    with pytest.raises(ProviderError) as raised:
        folded(*payloads)
    assert raised.value.code is code


def test_every_finish_reason_of_the_sdk_is_known() -> None:
    """A release that brings a new one fails here, not in front of a user."""
    from google.genai import types

    known = [reason.value for reason in types.FinishReason if reason.value != "FINISH_REASON_UNSPECIFIED"]
    assert [value for value in known if value.lower() not in FINISHES] == []


GOOGLE = "type.googleapis.com/google.rpc."


@pytest.mark.parametrize(
    ("details", "after_s", "words"),
    [
        ([{"@type": GOOGLE + "RetryInfo", "retryDelay": "31.5s"}], 31.5, {"resource_exhausted"}),
        ([], 9.0, {"resource_exhausted"}),
        (
            [{"@type": GOOGLE + "QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}],
            9.0,
            {"resource_exhausted", "per_day"},
        ),
        (
            [{"@type": GOOGLE + "ErrorInfo", "reason": "API_KEY_INVALID"}],
            9.0,
            {"resource_exhausted", "api_key_invalid"},
        ),
    ],
)
def test_details_decide_between_a_wait_and_an_end(details: list[Any], after_s: float, words: set[str]) -> None:
    """RetryInfo wins over a header; a limit per day is a quota, not a rate."""
    found = refusal({"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}, 429, 9.0)
    assert found.retry_after_s == after_s
    assert found.words == words


def test_an_error_inside_a_stream_closes_the_model_only_before_its_first_word() -> None:
    overload = b'{"error": {"code": 503, "status": "UNAVAILABLE"}}'
    with pytest.raises(ModelUnavailable):
        folded(overload)
    with pytest.raises(ProviderError) as raised:
        folded(said("a"), overload)
    assert raised.value.code is Code.LLM_ERROR
    assert not isinstance(raised.value, ModelUnavailable)


def test_a_break_after_the_finish_reason_is_no_error() -> None:
    answer = GeminiAnswer()
    assert answer.cut(OSError()) is not None
    answer.take(said("a", finish="STOP"))
    assert answer.cut(OSError()) is None


ODD = [
    {"candidates": {"content": {"parts": {"text": "a"}}, "finishReason": "stop"}},
    {"candidates": [{"content": {"parts": ["a"]}, "finish_reason": "STOP"}]},
    {"candidates": [{"content": "a", "finishReason": {"name": "STOP"}}]},
    {"candidates": [{"content": {"parts": [{"text": "a"}, {"text": 7}, None]}, "finishReason": "STOP"}],
     "modelVersion": 4},
]  # fmt: skip


@pytest.mark.parametrize("chunk", ODD)
def test_text_and_end_are_taken_from_other_shapes(chunk: Any) -> None:
    deltas, last = folded(json.dumps(chunk).encode())
    assert [delta.text for delta in deltas] == ["a"]
    assert last.reason == "stop"
