"""What Gemini is sent, and what its responses mean."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.domain.errors import Code, ModelClosed, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished, ModelRequest, Picture
from daemon.providers.gemini import _REFUSES, _SLIPS, Answer, _Error, _post, arguments


def said(*texts: str, finish: str | None = None, **more: Any) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": t} for t in texts]}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return json.dumps({"candidates": [candidate], **more}).encode()


def folded(*payloads: bytes) -> tuple[list[Delta], Finished]:
    answer = Answer()
    deltas = [delta for payload in payloads for delta in answer.take(payload)]
    return deltas, answer.finished()


def test_the_request_is_made_of_the_vendors_types() -> None:
    """Text last, pictures before it; no tools, no continuation behind our back."""
    contents, config = arguments(
        ModelRequest("gemini", "m", "Be brief.", "Hello", (Picture("image/png", b"\x00\xff"),), json_output=True)
    )
    picture, text = contents[0].parts
    assert (picture.inline_data.data, picture.inline_data.mime_type) == (b"\x00\xff", "image/png")
    assert text.text == "Hello"
    assert config.response_mime_type == "application/json"
    assert config.automatic_function_calling is not None
    assert config.automatic_function_calling.disable
    assert config.automatic_continuation is False


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


@pytest.mark.parametrize("finish", sorted(_REFUSES))
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


@pytest.mark.parametrize("finish", [*sorted(_SLIPS), "SOMETHING_NEW"])
def test_a_models_slip_may_be_tried_again(finish: str) -> None:
    with pytest.raises(ProviderError) as raised:
        folded(said("a", finish=finish))
    assert raised.value.code is Code.LLM_ERROR
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

    assert {reason.value for reason in types.FinishReason} == _REFUSES | _SLIPS | {"STOP", "MAX_TOKENS"}


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
    import msgspec

    error = msgspec.convert({"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}, _Error)
    refusal = error.refusal(429, 9.0)
    assert refusal.retry_after_s == after_s
    assert refusal.words == words


def test_an_error_inside_a_stream_closes_the_model_only_before_its_first_word() -> None:
    overload = b'{"error": {"code": 503, "status": "UNAVAILABLE"}}'
    with pytest.raises(ModelClosed):
        folded(overload)
    with pytest.raises(ProviderError) as raised:
        folded(said("a"), overload)
    assert raised.value.code is Code.LLM_ERROR
    assert not isinstance(raised.value, ModelClosed)


class Opened:
    """An answer that the tap has caught."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True


async def test_an_answer_that_the_sdk_then_fails_on_is_closed() -> None:
    """Whatever a release does between sending and returning, no socket stays open."""
    from daemon.providers.transport import _caught

    opened = Opened()

    async def generate_content(**_: object) -> None:
        caught = _caught.get()
        assert caught is not None
        caught.append(cast("Any", opened))
        raise RuntimeError

    models = SimpleNamespace(generate_content=generate_content)
    client = cast("Any", SimpleNamespace(aio=SimpleNamespace(models=models)))
    with pytest.raises(RuntimeError):
        await _post(client, ModelRequest("gemini", "m", "", "Hello", stream=False))
    assert opened.closed
    assert _caught.get() is None


def test_a_break_after_the_finish_reason_is_no_error() -> None:
    answer = Answer()
    assert answer.cut(OSError()) is not None
    answer.take(said("a", finish="STOP"))
    assert answer.cut(OSError()) is None
