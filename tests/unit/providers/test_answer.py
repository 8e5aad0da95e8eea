"""When an answer has ended, and what it was; the vendor's shape does not matter here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.domain.errors import Code, ProviderError
from daemon.domain.events import Channel
from daemon.domain.model_io import Delta
from daemon.providers.answer import FINISHES, Answer
from daemon.providers.openai_answer import OpenAIAnswer


def chunk(text: str = "", finish: str | None = None, **more: Any) -> bytes:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}], **more}).encode()


USAGE: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}


def after(*payloads: bytes) -> Answer:
    answer = OpenAIAnswer()
    for payload in payloads:
        answer.take(payload)
    return answer


@pytest.mark.parametrize(
    ("payloads", "may_end", "nothing_follows"),
    [
        ([chunk("a")], False, False),
        ([chunk("a"), chunk(finish="stop")], True, True),
        ([chunk("a", "stop")], True, False),
        ([chunk("a", "stop"), json.dumps(USAGE).encode()], True, True),
        ([chunk("a", "stop", usage=USAGE["usage"])], True, True),
        ([chunk("a", "stop", usage={})], True, False),
        ([chunk("a", "stop"), b"[DONE]"], True, True),
        ([chunk(finish="stop")], True, False),
        ([chunk("a", "stop"), chunk("b")], False, False),
        ([chunk("a", "stop"), chunk("b", "stop")], False, False),
        ([chunk("a", "stop"), chunk("b"), b"[DONE]"], True, True),
        ([chunk("a"), b"[DONE]"], True, True),
    ],
)
def test_an_end_is_a_state(payloads: list[bytes], *, may_end: bool, nothing_follows: bool) -> None:
    answer = after(*payloads)
    assert (answer.may_end, answer.nothing_follows and answer.may_end) == (may_end, nothing_follows)
    assert (answer.cut(OSError()) is None) is may_end


def test_a_clean_end_is_one_for_a_vendor_that_says_stop_in_each_chunk() -> None:
    assert after(chunk("a", "stop"), chunk("b", "stop")).finished().reason == "stop"
    assert after(chunk("", "stop"), chunk("b")).finished().reason == "stop"


def test_done_without_a_finish_reason_is_an_end() -> None:
    assert after(chunk("a"), b"[DONE]").finished().reason is None
    assert after(chunk("a"), b'"[DONE]"').finished().reason is None
    with pytest.raises(ProviderError) as raised:
        after(chunk("a")).finished()
    assert raised.value.code is Code.LLM_ERROR


@pytest.mark.parametrize(("finish", "meaning"), FINISHES.items())
def test_each_spelling_of_an_end_is_known(finish: str, meaning: str) -> None:
    for spelled in (finish, finish.upper(), f" FINISH_REASON_{finish.upper()}"):
        answer = after(chunk("a"), chunk(finish=spelled))
        if meaning in ("stop", "length"):
            assert answer.finished().reason == meaning
            continue
        with pytest.raises(ProviderError) as raised:
            answer.finished()
        assert (raised.value.code is Code.LLM_REFUSED) is (meaning == "filtered")


@pytest.mark.parametrize("none", ["", "null", "None", "FINISH_REASON_UNSPECIFIED"])
def test_words_for_no_end_are_none(none: str) -> None:
    assert not after(chunk("a", none)).may_end


def test_half_a_surrogate_pair_waits_for_the_other_half() -> None:
    answer, found = OpenAIAnswer(), list[Delta]()
    for text in ("a\ud83d", "", "\ude00b", "c\ud83d", "d", "\ude00", "e\ud83d"):
        found += answer.take(chunk(text))
    found += answer.rest()
    assert "".join(delta.text for delta in found) == "a\U0001f600bc\ufffdd\ufffde\ufffd"
    assert answer.rest() == []


def test_a_payload_may_be_torn_in_two() -> None:
    """Events whose JSON goes over several lines, the first of which looks whole."""
    answer = OpenAIAnswer()
    assert answer.take(b'{"choices": [{"delta": {"content": "a"}}') == []
    assert answer.take(b"]}") == [Delta(Channel.TEXT, "a")]


@pytest.mark.parametrize(
    ("torn", "whole"),
    [
        (b'{"choices": [], "usage": {"prom', True),
        (b'{"choices": [{"delta": {"content": ""}}], "usa', True),
        (b'{"choices": [{"delta": {"content": "b', False),
        (b'{"choices": [{"delta": {"content":', False),
    ],
)
def test_what_is_torn_after_the_end_matters_only_if_it_holds_text(torn: bytes, *, whole: bool) -> None:
    for more in ([], [b"[DONE]"], [json.dumps(USAGE).encode()]):
        if whole:
            assert after(chunk("a", "stop"), torn, *more).finished().reason == "stop"
            continue
        with pytest.raises(ProviderError) as raised:
            after(chunk("a", "stop"), torn, *more).finished()
        assert raised.value.code is Code.LLM_ERROR


def test_an_endless_flow_of_what_is_no_json_is_refused() -> None:
    """Each further payload is read together with those before it."""
    with pytest.raises(ProviderError, match="no JSON"):
        after(*[b'{"a": ' + b"x" * 5000] * 100)


def test_words_between_the_chunks_say_nothing() -> None:
    assert after(chunk("a"), b"ping", b"7", chunk("b", "stop")).finished().reason == "stop"
