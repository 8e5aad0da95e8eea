"""What a chunk of an OpenAI-compatible vendor says. The usual shape is decoded at once, every other one by hand.

Vendors' habits that this module knows: `reasoning_content`, `reasoning`, `thinking` or `reasoning_details`; content as
text, parts or an object; `message` where `delta` would be; usage in a last chunk with `choices: []`, in a choice (Kimi)
or under `x_groq`; errors as an object, a text, in a choice, or as the whole answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, Final

import msgspec

from daemon.domain.events import Channel
from daemon.domain.model_io import Delta
from daemon.providers.answer import Answer
from daemon.providers.error_mapping import Refusal, known_words, status_of
from daemon.providers.lenient_json import chosen, fields, items, says_something, word
from daemon.providers.token_counts import Counts, first_count

_TEXT: Final = Channel.TEXT
_THOUGHT: Final = Channel.REASONING


class _Said(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    reasoning_details: Any = None
    refusal: Any = None
    error: Any = None


class _Choice(msgspec.Struct):
    index: Any = None
    delta: _Said | None = None
    message: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  #: beside a finish reason it says which stop sequence it was
    camel_reason: Any = msgspec.field(name="finishReason", default=None)
    usage: Any = None
    error: Any = None


class _Chunk(msgspec.Struct):
    finish_reason: Any = None  #: in a chunk without choices
    base_resp: Any = None
    id: Any = None
    model: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None  #: read apart: a count that makes no sense must not void the text beside it
    x_groq: Any = None
    error: Any = None


#: `base_resp.status_code` of MiniMax, in words that are known; 0: no error
MINIMAX: Final = MappingProxyType(
    {"1001": "timeout", "1002": "rate_limit_exceeded", "1004": "invalid_api_key", "1008": "insufficient_balance",
     "1026": "content_filter", "1027": "content_filter", "1039": "rate_limit_exceeded"}
)  # fmt: skip
NESTED_MAX: Final = 3  #: errors inside errors
_decode: Final = msgspec.json.Decoder(_Chunk).decode


class OpenAIAnswer(Answer):
    """One answer of DeepSeek, OpenAI, or a gateway that speaks like them."""

    __slots__ = ("_by_delta", "_by_message")

    def __init__(self) -> None:
        super().__init__(thoughts_beside=False)
        self._by_delta = False  #: text came in deltas: a whole `message` or `text` at the end repeats it
        self._by_message: bool | None = None  #: it came in messages (True) or in `text` (False)

    def _strict(self, data: bytes) -> list[Delta]:
        chunk = _decode(data)
        if chunk.error or chunk.base_resp or (not chunk.choices and chunk.usage is None):
            self._raise_error(fields(msgspec.json.decode(data)), chunk.usage)
        if not self.request_id or chunk.model != self.model_name:
            self._names(chunk.model, chunk.id)
        return self._read(chunk)

    def _lenient(self, chunk: dict[str, Any]) -> list[Delta]:
        self._raise_error(chunk, chunk.get("usage"))
        self._names(chunk.get("model"), chunk.get("id"))
        choices = [_choice(fields(each)) for each in items(chunk.get("choices"))]
        return self._read(
            _Chunk(
                choices=choices,
                usage=chunk.get("usage"),
                x_groq=chunk.get("x_groq"),
                finish_reason=chunk.get("finish_reason"),
            )
        )

    def _read(self, chunk: _Chunk) -> list[Delta]:
        found: list[Delta] = []
        for choice in chosen(chunk.choices):
            said = choice.delta
            error = choice.error or (said is not None and said.error)
            if error and says_something(error):
                self._fail(refusal_of(error), counts(choice.usage or chunk.usage))
            if said is not None:
                self._spoken(said, found)
                if said.content:
                    self._by_delta = True
            if choice.message is not None or choice.text:
                self._repeated(choice, found)
            reason = choice.finish_reason or choice.camel_reason or choice.stop_reason
            if reason is not None:
                self._ends(_finish(reason), with_text=bool(found))
            if choice.usage is not None:
                self._counts(counts(choice.usage))
        if chunk.finish_reason is not None or chunk.x_groq is not None:
            self._ends(_finish(chunk.finish_reason), with_text=bool(found))
            self._counts(counts(fields(chunk.x_groq).get("usage")))
        if chunk.usage is not None:
            self._counts(counts(chunk.usage))
        return found

    def _repeated(self, choice: _Choice, found: list[Delta]) -> None:
        """What a `message` or a `text` says, unless it came in deltas, or in the other of the two."""
        if self._by_delta:
            return
        if choice.message is not None and self._by_message is not False:
            self._spoken(choice.message, found)
            if choice.message.content:
                self._by_message = True
        if choice.text and not self._by_message:
            self._say(found, _TEXT, choice.text)
            self._by_message = False

    def _spoken(self, said: _Said, found: list[Delta]) -> None:
        thought = said.reasoning_content or said.reasoning or said.thinking
        if thought:
            self._say(found, _THOUGHT, thought)
        elif said.reasoning_details:
            self._say(found, _THOUGHT, _joined(said.reasoning_details))
        if said.content:
            self._say(found, _TEXT, said.content)
        if said.refusal:
            self._refusal = True

    def _raise_error(self, chunk: dict[str, Any], usage: object) -> None:
        """Raise what a chunk says instead of an answer."""
        error = chunk.get("error")
        if not error and "choices" not in chunk and _is_error(chunk):
            error = chunk
        if not error and fields(chunk.get("base_resp")).get("status_code") not in (None, 0, "0", ""):
            error = chunk["base_resp"]
        if says_something(error):
            self._fail(refusal_of(error), counts(usage))


def _is_error(chunk: dict[str, Any]) -> bool:
    """`{"object": "error", …}`, `{"type": "error", …}`, `{"code": 503, "message": …}`."""
    named = "error" in (chunk.get("object"), chunk.get("type"))
    return named or (chunk.get("message") is not None and chunk.get("code") not in (None, 0, 200, "0", "200", ""))


def refusal_of(error: object, status: int = 0, named_s: float | None = None) -> Refusal:
    """What an `error` means, an object or a text; one that holds another is that other.

    `status` and `named_s` are those of the response; 0: the error came inside an answer and says its own.
    """
    told = _object(error)
    for _ in range(NESTED_MAX):
        told = _object(told.get("error")) or told
    status = status or status_of(told.get("code")) or status_of(told.get("error")) or status_of(error)
    words = [told.get("code"), told.get("type"), told.get("message"), error, told.get("error")]
    words.append(MINIMAX.get(str(told.get("status_code"))))
    return Refusal(status, known_words(words), named_s)


def _object(error: object) -> dict[str, Any]:
    """An error that is an object, or the first object of a list."""
    return next(filter(None, map(fields, items(error))), {})


# --- any shape --------------------------------------------------------------------------------------------------


def _choice(choice: dict[str, Any]) -> _Choice:
    delta, message, text = choice.get("delta"), choice.get("message"), choice.get("text")
    return _Choice(
        delta=None if delta is None else _said(delta),
        message=None if message is None else _said(message),
        index=choice.get("index"),
        text=text if isinstance(text, str) else None,
        finish_reason=_finish(choice.get("finish_reason")),
        camel_reason=choice.get("finishReason"),
        stop_reason=choice.get("stop_reason"),
        usage=choice.get("usage"),
        error=choice.get("error"),
    )


def _said(said: object) -> _Said:
    if isinstance(said, list):
        return _Said(content=_joined(said))
    if not isinstance(said, dict):
        return _Said(content=_text(said))
    content = said.get("content")
    thoughts = [part for part in items(content) if _is_thought(part)]
    return _Said(
        content=_joined([part for part in items(content) if not _is_thought(part)]),
        reasoning_content=_joined(said.get("reasoning_content")),
        reasoning=_joined(said.get("reasoning")) or _joined(thoughts),
        thinking=_joined(said.get("thinking")),
        reasoning_details=said.get("reasoning_details"),
        refusal=said.get("refusal"),
        error=said.get("error"),
    )


def _is_thought(part: object) -> bool:
    return str(fields(part).get("type", "")).startswith(("thinking", "reasoning"))


def _joined(content: object) -> str:
    return "".join(text for part in items(content) for text in _texts(part))


def _texts(part: object) -> Iterator[str]:
    """The texts of a content part: of itself, or of what it holds."""
    if not isinstance(part, dict):
        yield _text(part)
        return
    for name in ("text", "content", "value", "summary", "thinking", "parts"):
        inside = part.get(name)
        if isinstance(inside, str):
            yield inside
            return
        if isinstance(inside, (list, dict)) and inside:
            yield _joined(inside)
            return
    if "type" not in part:  # the object is the answer: JSON mode, read by the gateway
        yield json.dumps(part, ensure_ascii=False)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _finish(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return word(value) or ("unknown" if value else None)


# --- counts -----------------------------------------------------------------------------------------------------


def counts(counted: object) -> Counts:
    """A `usage` object in our names, whatever it holds."""
    told = fields(counted)
    if not told:
        return {}
    get = told.get
    cached = [fields(get(each)).get("cached_tokens") for each in ("prompt_tokens_details", "input_tokens_details")]
    thoughts = [
        fields(get(each)).get("reasoning_tokens") for each in ("completion_tokens_details", "output_tokens_details")
    ]
    return {
        "input": first_count(get("prompt_tokens"), get("input_tokens")),
        "cached": first_count(get("prompt_cache_hit_tokens"), *cached, get("cached_tokens")),
        "uncached": get("prompt_cache_miss_tokens"),
        "written": first_count(get("completion_tokens"), get("output_tokens")),
        "thoughts": first_count(*thoughts, get("reasoning_tokens")),
        "total": get("total_tokens"),
    }
