"""What a chunk of Gemini says. The usual shape is decoded at once, every other one by hand.

Gemini says no with 200: a blocked prompt has no candidates, a blocked answer a finish reason. Both are LLM_REFUSED.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from daemon.domain.errors import Code, ProviderError
from daemon.domain.events import Channel
from daemon.domain.model_io import Delta, Finished
from daemon.providers.answer import Answer
from daemon.providers.error_mapping import Refusal, duration_s, known_words, status_of
from daemon.providers.lenient_json import chosen, fields, items, says_something, word
from daemon.providers.token_counts import Counts

_TEXT: Final = Channel.TEXT
_THOUGHT: Final = Channel.REASONING


class _Part(msgspec.Struct, gc=False):
    text: str | None = None
    thought: bool | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    index: Any = None
    content: _Content | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: Any = None
    usage_metadata: Any = None  #: read apart: a count that makes no sense must not void the text beside it
    model_version: Any = None
    response_id: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode


class GeminiAnswer(Answer):
    """One answer of Gemini."""

    __slots__ = ("_blocked",)

    def __init__(self) -> None:
        super().__init__(thoughts_beside=True)
        self._blocked = False

    def _strict(self, data: bytes) -> list[Delta]:
        return self._read(_decode(data))

    def _lenient(self, chunk: dict[str, Any]) -> list[Delta]:
        candidates = [_candidate(fields(each)) for each in items(chunk.get("candidates"))]
        return self._read(
            _Chunk(
                candidates=candidates,
                prompt_feedback=_either(chunk, "promptFeedback", "prompt_feedback"),
                usage_metadata=_either(chunk, "usageMetadata", "usage_metadata"),
                model_version=_either(chunk, "modelVersion", "model_version"),
                response_id=_either(chunk, "responseId", "response_id"),
                error=chunk.get("error"),
            )
        )

    def _read(self, chunk: _Chunk) -> list[Delta]:
        if chunk.error and says_something(chunk.error):
            self._fail(refusal(chunk.error), counts(chunk.usage_metadata))
        if chunk.model_version != self.model_name or not self.request_id:
            self._names(chunk.model_version, chunk.response_id)
        if chunk.prompt_feedback is not None and _blocks(chunk.prompt_feedback):
            self._blocked, self._more = True, False
        found: list[Delta] = []
        for candidate in chosen(chunk.candidates):
            if candidate.content is not None:
                for part in candidate.content.parts or ():
                    if part.text:
                        self._say(found, _THOUGHT if part.thought else _TEXT, part.text)
            if candidate.finish_reason is not None:
                self._ends(candidate.finish_reason, with_text=bool(found))
        if chunk.usage_metadata is not None:
            self._counts(counts(chunk.usage_metadata))
        return found

    @property
    def may_end(self) -> bool:
        """As of every answer; and nothing follows a prompt that was blocked."""
        return self._blocked or super().may_end

    def finished(self) -> Finished:
        """The end of the response. Raises `ProviderError` for an answer that is not one."""
        if self._blocked:
            raise ProviderError(code=Code.LLM_REFUSED, detail="prompt blocked")
        return super().finished()


# --- errors -----------------------------------------------------------------------------------------------------


def refusal(error: object, status: int = 0, named_s: float | None = None) -> Refusal:
    """What an `error` object means: RetryInfo wins over headers; a quota counted by the day is no rate limit.

    `status` and `named_s` are those of the response; 0: the error came inside an answer and says its own.
    """
    told = fields(error)
    words: list[object] = [told.get("status"), error if isinstance(error, str) else None]
    for detail in items(told.get("details")):
        about = fields(detail)
        delay = duration_s(about.get("retryDelay"))
        named_s = named_s if delay is None else delay
        words.append(about.get("reason"))
        quotas = [fields(each).get("quotaId") for each in items(about.get("violations"))]
        if any(isinstance(quota, str) and "PerDay" in quota for quota in quotas):
            words.append("per_day")
    return Refusal(status or status_of(told.get("code")), known_words(words), named_s)


def blamed_fields(error: object) -> list[str]:
    """The fields of the request that a BadRequest names."""
    violations = [
        fields(each).get("field")
        for detail in items(fields(error).get("details"))
        for each in items(fields(detail).get("fieldViolations"))
    ]
    return [field for field in violations if isinstance(field, str) and field]


# --- any shape --------------------------------------------------------------------------------------------------


def _either(chunk: dict[str, Any], *names: str) -> Any:
    return next((chunk[name] for name in names if chunk.get(name) is not None), None)


def _blocks(feedback: object) -> bool:
    """Whether a `promptFeedback` names a reason why the prompt is blocked."""
    reason = feedback if isinstance(feedback, str) else _either(fields(feedback), "blockReason", "block_reason")
    return not (word(reason) or "UNSPECIFIED").strip().upper().endswith("UNSPECIFIED")


def _candidate(candidate: dict[str, Any]) -> _Candidate:
    content = candidate.get("content")
    parts = fields(content).get("parts", content) if isinstance(content, dict) else content
    finish = _either(candidate, "finishReason", "finish_reason")
    return _Candidate(
        index=candidate.get("index"),
        content=_Content([_part(each) for each in items(parts)]),
        finish_reason=word(finish) or ("unknown" if finish else None),
    )


def _part(part: object) -> _Part:
    text = part if isinstance(part, str) else fields(part).get("text")
    thought = fields(part).get("thought")
    if isinstance(thought, str):
        thought = thought.strip().lower() not in ("", "0", "false", "no", "none", "null")
    return _Part(text if isinstance(text, str) else None, bool(thought))


# --- counts -----------------------------------------------------------------------------------------------------


def counts(counted: object) -> Counts:
    """A `usageMetadata` object in our names, whatever it holds."""
    told = fields(counted).get
    return {
        "input": told("promptTokenCount"),
        "tools": told("toolUsePromptTokenCount"),
        "cached": told("cachedContentTokenCount"),
        "written": told("candidatesTokenCount"),
        "thoughts": told("thoughtsTokenCount"),
        "total": told("totalTokenCount"),
    }
