"""What a provider's refusal means: status and code words in, one of our errors out. Pure; used by every adapter.

| the provider says | we raise | what happens |
|---|---|---|
| 402, quota and billing words, per-day limits | `ModelUnavailable("QUOTA")` | parked, other models may serve |
| 401, 403, key words | `ModelUnavailable("QUOTA")`, logged as an error | snoozed: a wrong key must not burn tasks |
| 429 | `ModelUnavailable("RATE_LIMITED")` | parked until the named time |
| 503, 529, overload words | `ModelUnavailable("OVERLOADED")` | parked |
| 404, unknown-model words | `ModelUnavailable("UNKNOWN_MODEL")` | a fallback may serve |
| content words | `LLM_REFUSED` | ends: the same text is refused again |
| 400, 413, 422 and other 4xx | `LLM_REFUSED` | ends: the same request can never be accepted |
| 408, 504, 522, 524 | `LLM_TIMEOUT` | counts a failure, tried again |
| anything else | `LLM_ERROR` | counts a failure, tried again |

Once text has been handed on nothing closes the model any more: `ModelUnavailable` counts no failure, and an answer
that is paid for and thrown away must count. A body is never quoted, it may echo the prompt;
of its words only those known here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from daemon.domain.errors import Code, ModelUnavailable, ProviderError

RETRY_AFTER_S_MAX: Final = 86_400.0  #: a provider that names more is asked again after a day

QUOTA_WORDS: Final = frozenset(
    {
        "insufficient_quota", "credit_balance_exhausted", "organization_usage_limit_exceeded", "insufficient_balance",
        "billing_hard_limit_reached", "billing_not_active", "billing_disabled", "monthly_spend_limit_exceeded",
        "project_spend_limit_exceeded", "organization_spend_limit_exceeded", "access_terminated",
        "account_deactivated", "per_day", "failed_precondition",
    }
)  # fmt: skip
KEY_WORDS: Final = frozenset(
    {
        "invalid_api_key", "authentication_error", "permission_error", "permission_denied", "unauthenticated",
        "api_key_invalid", "api_key_service_blocked", "unsupported_country_region_territory",
    }
)  # fmt: skip
RATE_WORDS: Final = frozenset({"rate_limit_exceeded", "rate_limit_error", "rate_limit_reached", "slow_down",
                               "resource_exhausted", "too_many_requests"})  # fmt: skip
OVERLOAD_WORDS: Final = frozenset({"server_is_overloaded", "overloaded_error", "engine_overloaded", "unavailable",
                                   "service_unavailable", "insufficient_system_resource"})  # fmt: skip
MODEL_WORDS: Final = frozenset({"model_not_found", "model_not_exist", "not_found"})
CONTENT_WORDS: Final = frozenset({"content_filter", "content_policy_violation", "content_exists_risk",
                                  "moderation_blocked"})  # fmt: skip
#: decide nothing, but tell operators what to look at
PLAIN_WORDS: Final = frozenset(
    {
        "invalid_request_error", "invalid_request", "invalid_argument", "context_length_exceeded", "out_of_range",
        "string_above_max_length", "unsupported_parameter", "unsupported_value", "invalid_image",
        "invalid_image_format", "image_too_large", "server_error", "internal_server_error", "internal", "api_error",
        "deadline_exceeded", "timeout",
    }
)  # fmt: skip
_KNOWN: Final = QUOTA_WORDS | KEY_WORDS | RATE_WORDS | OVERLOAD_WORDS | MODEL_WORDS | CONTENT_WORDS | PLAIN_WORDS
_UNKNOWN_MODEL: Final = "The supported API model names are "  #: DeepSeek's 400 for a name that it does not know
_TOO_LONG: Final = frozenset({"context_length_exceeded", "string_above_max_length", "out_of_range"})
#: a quoted name, or one that is no everyday word
_PARAMETER: Final = re.compile(
    r"(?<=['\"`])[A-Za-z_][A-Za-z_.]*(?=['\"`])|[A-Za-z]+(?:[._][A-Za-z]+)+|temperature|[a-z]+[A-Z]\w+"
    r"|(?i:thinking[ _](?:level|budget))"
)
_MESSAGE_CHARACTERS: Final = 500  #: of a message that are looked at; the name stands at its beginning
_STATUS: Final = re.compile(r"\s*([45][0-9]{2})(?:\.0*)?(?![\w.])")
_PIECE: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A provider's no. `status` 0: it came inside an answer. `words`: its codes and types, reduced to known ones."""

    status: int
    words: frozenset[str]
    retry_after_s: float | None = None

    @property
    def key_problem(self) -> bool:
        """Our key is missing, wrong or not allowed: an operator must act."""
        return not self.words & QUOTA_WORDS and (self.status in (401, 403) or bool(self.words & KEY_WORDS))

    @property
    def detail(self) -> str:
        """For operators: the status and the known words, nothing that a caller wrote."""
        return " ".join([f"status={self.status}" if self.status else "in-stream", *sorted(self.words)])


def status_of(code: object) -> int:
    """The status of HTTP that a code inside an answer is; 0: it is none.

    >>> status_of(429), status_of(429.0), status_of("429"), status_of("503 Service Unavailable"), status_of("a 429")
    (429, 429, 429, 503, 0)
    """
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    if isinstance(code, str) and (found := _STATUS.match(code)):
        code = int(found[1])
    return code if isinstance(code, int) and 400 <= code <= 599 else 0


def known_words(values: Iterable[object]) -> frozenset[str]:
    """The known code words among what a body said, in any case and with spaces; everything else is forgotten."""
    values = list(values)
    words = {str(v).strip().lower().replace(" ", "_").replace("-", "_") for v in values if v is not None}
    if any(isinstance(v, str) and v.startswith(_UNKNOWN_MODEL) for v in values):
        words.add("model_not_found")
    return frozenset(words & _KNOWN)


def to_error(refusal: Refusal, *, spoke: bool = False) -> ProviderError:
    """The error that says what to do. `spoke`: text of this answer has been handed on already."""
    closed = _closed(refusal)
    if closed and not spoke:
        return ModelUnavailable(closed, retry_after_s=refusal.retry_after_s, detail=refusal.detail)
    code = Code.LLM_ERROR if closed else _code(refusal)
    unfit = code is Code.LLM_REFUSED and not refusal.words & CONTENT_WORDS
    return ProviderError(
        "The model does not accept this request." if unfit else "",
        code=code,
        retry_after_s=refusal.retry_after_s,
        detail=refusal.detail,
    )


def refused_parameter(refusal: Refusal, named: Iterable[object], message: object, sent: Mapping[str, str]) -> str:
    """Which parameter a 400 or 422 blames, as one of the values of `sent`; "" when it blames none that was sent.

    `sent` maps the provider's names to ours. `named`: where its error says which field it means (`error.param`, field
    violations); else its message must name one, as in `Unsupported value: 'temperature' does not support 0.3`.
    """
    if refusal.status not in (400, 422) or refusal.words & (CONTENT_WORDS | _TOO_LONG | KEY_WORDS | QUOTA_WORDS):
        return ""
    ours = {_plain(theirs): parameter for theirs, parameter in sent.items()}
    for field in named:
        for part in reversed(str(field or "").split(".")):
            if _plain(part) in ours:
                return ours[_plain(part)]
    for word in _PARAMETER.findall(str(message or "")[:_MESSAGE_CHARACTERS]):
        for part in reversed(word.split(".")):
            if _plain(part) in ours:
                return ours[_plain(part)]
    return ""


def _plain(name: str) -> str:
    """`maxOutputTokens` and `max_output_tokens` are one name."""
    return name.replace("_", "").replace(" ", "").lower()


def lost(error: BaseException) -> ProviderError:
    """The connection could not be made or broke. Only a failed connect's text is kept: it names a host, no content."""
    name = type(error).__name__
    text = f": {str(error)[:160]}" if name in ("ConnectError", "ConnectTimeout", "ProxyError") else ""
    return ProviderError(detail=f"connection: {name}{text}")


def _closed(refusal: Refusal) -> str | None:
    """The reason for which the model is closed to everyone, if it is."""
    status, words = refusal.status, refusal.words
    if words & CONTENT_WORDS:
        return None
    if status == 402 or words & QUOTA_WORDS or refusal.key_problem:
        return "QUOTA"
    if status == 404 or words & MODEL_WORDS:
        return "UNKNOWN_MODEL"
    if status == 429 or words & RATE_WORDS:
        return "RATE_LIMITED"
    if status in (503, 529) or words & OVERLOAD_WORDS:
        return "OVERLOADED"
    return None


def _code(refusal: Refusal) -> Code:
    """What a refusal that closes nothing means for this one task."""
    if refusal.words & CONTENT_WORDS:
        return Code.LLM_REFUSED
    if refusal.status in (408, 504, 522, 524):
        return Code.LLM_TIMEOUT
    if 400 <= refusal.status < 500 and refusal.status not in (409, 425):
        return Code.LLM_REFUSED
    return Code.LLM_ERROR


# --- when to come back ------------------------------------------------------------------------------------------


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the headers name them, at most a day; None: not named. `headers` must ignore case.

    `retry-after-ms`, then `Retry-After` (seconds, or a date less the answer's own `Date`: our clock does not matter),
    then the later of the `x-ratelimit-reset-*` whose `remaining` is not above 0.
    """
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return _bounded(millis / 1000)
    named = headers.get("retry-after")
    if named is not None:
        seconds = _number(named)
        return _bounded(seconds if seconds is not None else _until(named, headers.get("date")))
    resets = []
    for kind in ("requests", "tokens"):
        left = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
        wait = duration_s(headers.get(f"x-ratelimit-reset-{kind}"))
        if wait is not None and (left is None or left <= 0):
            resets.append(wait)
    return _bounded(max(resets)) if resets else None


def duration_s(text: object) -> float | None:
    """Seconds of `31s`, `6m0s`, `12ms`, `1.5` or 7; None for anything else.

    >>> duration_s("6m0s"), duration_s("12ms"), duration_s("31.5s"), duration_s("soon")
    (360.0, 0.012, 31.5, None)
    """
    if not isinstance(text, (str, int, float)):
        return None
    plain = _number(text)
    if plain is not None:
        return plain
    pieces = _PIECE.findall(str(text))
    if not pieces or "".join(a + b for a, b in pieces) != str(text).strip():
        return None
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in pieces)


# --- numbers -----------------------------------------------------------------------------------------------------


def _number(text: object) -> float | None:
    try:
        value = float(text)  # type: ignore[arg-type]  # anything a header or body may hold
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _until(date: str, now: str | None) -> float | None:
    then, there = _date(date), _date(now)
    return (then - there).total_seconds() if then and there else None


def _date(text: str | None) -> datetime | None:
    try:
        when = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return when if when is not None and when.tzinfo is not None else None


def _bounded(seconds: float | None) -> float | None:
    return None if seconds is None else min(max(seconds, 0.0), RETRY_AFTER_S_MAX)
