"""What a refusal means, and when to come back."""

from __future__ import annotations

import pytest

from daemon.domain.errors import Code, ModelUnavailable
from daemon.providers.error_mapping import (
    RETRY_AFTER_S_MAX,
    Refusal,
    duration_s,
    known_words,
    lost,
    refused_parameter,
    retry_after_s,
    to_error,
)

CLOSED = [
    (429, "rate_limit_exceeded", "RATE_LIMITED"), (429, "", "RATE_LIMITED"), (0, "slow_down", "RATE_LIMITED"),
    (429, "insufficient_quota", "QUOTA"), (429, "per_day", "QUOTA"), (402, "", "QUOTA"),
    (400, "failed_precondition", "QUOTA"),
    (401, "", "QUOTA"), (403, "", "QUOTA"), (400, "api_key_invalid", "QUOTA"),
    (404, "", "UNKNOWN_MODEL"), (400, "model_not_exist", "UNKNOWN_MODEL"),
    (503, "", "OVERLOADED"), (529, "", "OVERLOADED"), (500, "server_is_overloaded", "OVERLOADED"),
    (0, "insufficient_system_resource", "OVERLOADED"),
]  # fmt: skip
OPEN = [
    (400, "", Code.LLM_REFUSED), (413, "", Code.LLM_REFUSED), (422, "", Code.LLM_REFUSED),
    (400, "content_filter", Code.LLM_REFUSED), (0, "content_policy_violation", Code.LLM_REFUSED),
    (429, "content_exists_risk", Code.LLM_REFUSED), (408, "", Code.LLM_TIMEOUT), (504, "", Code.LLM_TIMEOUT),
    (409, "", Code.LLM_ERROR), (500, "", Code.LLM_ERROR), (502, "", Code.LLM_ERROR), (302, "", Code.LLM_ERROR),
    (0, "server_error", Code.LLM_ERROR),
]  # fmt: skip


def refusal(status: int, word: str) -> Refusal:
    return Refusal(status, frozenset({word} if word else ()), 7.0)


@pytest.mark.parametrize(("status", "word", "reason"), CLOSED)
def test_these_close_the_model(status: int, word: str, reason: str) -> None:
    """They count no failure, and the named wait goes with them."""
    error = to_error(refusal(status, word))
    assert isinstance(error, ModelUnavailable)
    assert (error.reason, error.retry_after_s) == (reason, 7.0)


@pytest.mark.parametrize(("status", "word", "reason"), CLOSED)
def test_nothing_closes_the_model_once_text_was_handed_on(status: int, word: str, reason: str) -> None:
    """An answer that is paid for and thrown away counts, so that it is not repeated for ever."""
    error = to_error(refusal(status, word), spoke=True)
    assert not isinstance(error, ModelUnavailable)
    assert error.code is Code.LLM_ERROR


@pytest.mark.parametrize(("status", "word", "code"), OPEN)
def test_these_end_one_attempt(status: int, word: str, code: Code) -> None:
    error = to_error(refusal(status, word))
    assert not isinstance(error, ModelUnavailable)
    assert error.code is code


def test_a_request_that_does_not_fit_reads_otherwise_than_a_refused_text() -> None:
    """The viewer of a broken request should not be told that a model declined."""
    assert to_error(refusal(400, "")).message != to_error(refusal(400, "content_filter")).message


def test_a_key_problem_is_not_a_quota_problem() -> None:
    assert refusal(401, "").key_problem
    assert not refusal(403, "billing_not_active").key_problem
    assert not refusal(429, "").key_problem


def test_only_known_words_are_kept() -> None:
    """A body may echo the prompt in any field."""
    assert known_words(["Insufficient Balance", "my secret prompt", None, 7, "rate-limit-exceeded", {"a": 1}]) == {
        "insufficient_balance", "rate_limit_exceeded",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after": "999999999"}, RETRY_AFTER_S_MAX),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 23 Nov 2026 10:00:30 GMT", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry-after": "Mon, 23 Nov 2026 09:00:00 GMT", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, 0.0),
        ({"retry-after": "Mon, 23 Nov 2026 10:00:30 GMT"}, None),
        ({"retry-after": "Mon, 23 Nov 2026 10:00:30", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, None),
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-remaining-requests": "0"}, 0.012),
        (
            {"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "5",
             "x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"},
            360.0,
        ),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "5"}, None),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "2s"}, 2.0),
    ],
)  # fmt: skip
def test_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    """In every spelling that the vendors use; dates by the server's own clock."""
    assert retry_after_s(headers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("31s", 31), ("0.5s", 0.5), ("1h2m3s", 3723), ("250ms", 0.25), (7, 7), ("7", 7), ("1d", 86400), ("", None),
     ("x1s", None), ("nan", None), (None, None), ([], None)],
)  # fmt: skip
def test_durations(text: object, seconds: float | None) -> None:
    assert duration_s(text) == pytest.approx(seconds)


def test_a_lost_connection_tells_its_kind_and_a_failed_connect_its_host() -> None:
    """The text of other failures may hold bytes of the answer."""

    class ConnectError(Exception):
        pass

    class ReadError(Exception):
        pass

    assert "host.example:443" in lost(ConnectError("host.example:443")).detail
    assert lost(ReadError("b'half a prompt'")).detail == "connection: ReadError"


SENT = {"temperature": "temperature", "max_completion_tokens": "max_output_tokens",
        "maxOutputTokens": "max_output_tokens", "user": "user_tag"}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "named", "message", "parameter"),
    [
        (400, ["temperature"], "", "temperature"),
        (422, ["generation_config.max_output_tokens"], "", "max_output_tokens"),
        (400, [None], "Unsupported value: 'temperature' does not support 0.8 with this model.", "temperature"),
        (400, [], "this model does not support the parameter `user`", "user_tag"),
        (400, [], "* GenerateContentRequest.generation_config.temperature: out of range", "temperature"),
        (400, [], "Invalid max_completion_tokens value, the valid range is [1, 8192]", "max_output_tokens"),
        (400, ["messages"], "Invalid value", ""),
        (400, [], "the user said something", ""),
        (400, ["top_p"], "Unsupported parameter: 'top_p'", ""),
        (500, ["temperature"], "temperature", ""),
        (429, ["temperature"], "temperature", ""),
        (400, [{"an": "object"}], 7, ""),
    ],
)
def test_which_parameter_a_refusal_names(status: int, named: list[object], message: object, parameter: str) -> None:
    """By its own field, else by a name in its message; only one that was sent, only where the request is at fault."""
    assert refused_parameter(Refusal(status, frozenset()), named, message, SENT) == parameter


@pytest.mark.parametrize("word", ["content_filter", "context_length_exceeded", "invalid_api_key", "insufficient_quota"])
def test_a_refusal_for_another_reason_blames_no_parameter(word: str) -> None:
    """Its message may quote the prompt."""
    assert refused_parameter(refusal(400, word), ["temperature"], "'temperature'", SENT) == ""


def test_the_names_that_a_vendor_offers_instead_are_an_unknown_model() -> None:
    """DeepSeek says so in the message of a 400 only."""
    words = known_words([None, "invalid_request_error", "The supported API model names are a, b, but you passed c."])
    error = to_error(Refusal(400, words))
    assert isinstance(error, ModelUnavailable)
    assert error.reason == "UNKNOWN_MODEL"
