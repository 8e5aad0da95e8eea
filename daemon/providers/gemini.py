"""Gemini: generateContent through the `google-genai` package, raw lines under it (docs/decisions/0001-google-genai.md).

The SDK builds, signs and sends the request and judges its status; it has no public way to the lines of a stream, so the
HTTP client that it is handed (a public option) keeps the open answer for us and shows the SDK an empty one. Reasons:
its own reader raises on comments, ends silently when a stream is cut short, keeps the socket after `break`, and costs
more than 100 µs a chunk (bench/parse_cost.py; numbers in openai_compatible.py). API version and HTTP client are pinned:
both have changed between releases, and with them paths and error types. Never retries.

Gemini says no with 200: a blocked prompt has no candidates, a blocked answer a finish reason. Both become LLM_REFUSED.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Unpack

import msgspec

from daemon.domain.errors import Code, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished, FinishReason, ModelRequest, Parameter
from daemon.providers.adapter import Adapter, Connection
from daemon.providers.error_mapping import (
    Refusal,
    duration_s,
    known_sum,
    known_words,
    lost,
    refused_parameter,
    retry_after_s,
    to_error,
    token_count,
)
from daemon.providers.reasoning import gemini_config

if TYPE_CHECKING:
    import httpx2
    from google import genai
    from google.genai import types

API_VERSION: Final = "v1beta"
#: the fields of a request that it can do without, and our names for them
_OPTIONAL: Final = MappingProxyType[str, Parameter](
    {"temperature": "temperature", "maxOutputTokens": "max_output_tokens", "responseMimeType": "json_output",
     "thinkingConfig": "reasoning", "thinkingLevel": "reasoning", "thinkingBudget": "reasoning"}
)  # fmt: skip


class Gemini(Adapter["genai.Client", "Answer"]):
    """Google's models."""

    def __init__(self, **connection: Unpack[Connection]) -> None:
        super().__init__("gemini", Answer, **connection)

    def _build(self, http: httpx2.AsyncClient) -> genai.Client:
        from google import genai
        from google.genai import types

        options = types.HttpOptions(base_url=self._base_url, api_version=API_VERSION, httpx_async_client=http)
        return genai.Client(api_key=self._api_key, vertexai=False, http_options=options)

    @asynccontextmanager
    async def _posted(
        self, client: genai.Client, request: ModelRequest, answer: Answer
    ) -> AsyncIterator[httpx2.Response]:
        response = await _post(client, request)
        try:
            yield response
        finally:
            await response.aclose()

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        return (importlib.import_module("google.genai.errors").APIError,)

    def _judged(self, error: Any, request: ModelRequest, answer: Answer) -> ProviderError:
        body = error.details if isinstance(error.details, dict) else {}
        try:
            said = msgspec.convert(body.get("error", body), _Error)
        except msgspec.ValidationError:
            said = _Error()
        named_s = retry_after_s(error.response.headers) if error.response is not None else None
        refusal = said.refusal(error.code, named_s)
        refused = self._error(refusal)
        sent = {theirs: ours for theirs, ours in _OPTIONAL.items() if request.sends(ours) and getattr(request, ours)}
        refused.parameter = refused_parameter(refusal, said.fields, said.message, sent)
        return refused


async def _post(client: genai.Client, request: ModelRequest) -> httpx2.Response:
    """The open answer to one call. Cancelled or failed, nothing stays open."""
    from daemon.providers.transport import catching

    contents, config = arguments(request)
    with catching() as caught:
        try:
            if request.stream:
                stream = await client.aio.models.generate_content_stream(
                    model=request.model_name, contents=contents, config=config
                )
                async for _ in stream:  # sends; the SDK sees an empty answer
                    pass
            else:
                await client.aio.models.generate_content(model=request.model_name, contents=contents, config=config)
            return caught[0]
        except BaseException:
            for response in caught:
                await response.aclose()
            raise


def arguments(request: ModelRequest) -> tuple[Any, types.GenerateContentConfig]:
    """The call as the SDK's types. Pictures travel inline, before the text, as the vendor advises."""
    from google.genai import types

    parts = [types.Part.from_bytes(data=p.data, mime_type=p.mime_type) for p in request.pictures]
    parts.append(types.Part.from_text(text=request.prompt))
    config = types.GenerateContentConfig(
        system_instruction=request.system or None,
        max_output_tokens=request.max_output_tokens if request.sends("max_output_tokens") else None,
        temperature=request.temperature if request.sends("temperature") else None,
        response_mime_type="application/json" if request.json_output and request.sends("json_output") else None,
        thinking_config=gemini_config(request.model_name, request.reasoning)
        if request.reasoning and request.sends("reasoning")
        else None,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        automatic_continuation=False,
    )
    return [types.Content(role="user", parts=parts)], config


# --- the shape of an answer -------------------------------------------------------------------------------------


class _Part(msgspec.Struct):
    text: str | None = None
    thought: bool | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Violation(msgspec.Struct, rename="camel"):
    quota_id: str | None = None
    field: str | None = None


class _Detail(msgspec.Struct, rename="camel"):
    """RetryInfo, QuotaFailure, BadRequest or ErrorInfo, told apart by what they hold."""

    retry_delay: str | None = None
    violations: list[_Violation] | None = None
    field_violations: list[_Violation] | None = None
    reason: str | None = None


class _Error(msgspec.Struct):
    code: int | None = None
    status: str | None = None
    message: str | None = None
    details: list[_Detail] | None = None

    @property
    def fields(self) -> list[str]:
        """The fields of the request that a BadRequest names."""
        violations = [v for detail in self.details or () for v in detail.field_violations or ()]
        return [v.field for v in violations if v.field]

    def refusal(self, status: int, named_s: float | None = None) -> Refusal:
        """What it means: RetryInfo wins over headers; a quota counted by the day is no rate limit."""
        words: list[object] = [self.status]
        for detail in self.details or ():
            delay = duration_s(detail.retry_delay)
            named_s = named_s if delay is None else delay
            words.append(detail.reason)
            if any("PerDay" in (v.quota_id or "") for v in detail.violations or ()):
                words.append("per_day")
        return Refusal(status, known_words(words), named_s)


class _Chunk(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Any = None  #: read apart, by `usage`: a count that makes no sense must not void the text beside it
    model_version: str | None = None
    response_id: str | None = None
    error: _Error | None = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode
_FINISHES: Final = MappingProxyType[str, FinishReason]({"STOP": "stop", "MAX_TOKENS": "length"})
#: the same prompt ends the same way again
_REFUSES: Final = frozenset(
    {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "ESCALATION",
     "PUP_LIMITED_DISABLED", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER", "NO_IMAGE"}
)  # fmt: skip
#: a model's slip that another try may not repeat
_SLIPS: Final = frozenset(
    {"OTHER", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE",
     "MALFORMED_RESPONSE", "CONTINUATION", "FINISH_REASON_UNSPECIFIED"}
)  # fmt: skip


_COUNTS: Final = (
    "promptTokenCount", "toolUsePromptTokenCount", "cachedContentTokenCount", "candidatesTokenCount",
    "thoughtsTokenCount",
)  # fmt: skip


class Answer:
    """Folds the chunks of one answer. Pure: bytes in, pieces out; what is wrong with the answer is raised."""

    __slots__ = ("_blocked", "_id", "_model", "_spoke", "_usage", "finish", "over")

    def __init__(self) -> None:
        self.over = False  # the vendor has no word for it: the body ends
        self.finish: str | None = None
        self._blocked = False
        self._spoke = False
        self._usage: Any = None
        self._model = self._id = ""

    def take(self, data: bytes) -> list[Delta]:
        """The deltas of one payload. Raises `ProviderError`, `DecodeError`."""
        chunk = _decode(data)
        if chunk.error is not None:
            raise to_error(chunk.error.refusal(chunk.error.code or 0), spoke=self._spoke)
        self._usage = chunk.usage_metadata or self._usage
        self._model = chunk.model_version or self._model
        self._id = chunk.response_id or self._id
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self._blocked = True
        found: list[Delta] = []
        for candidate in chunk.candidates or ():
            self.finish = candidate.finish_reason or self.finish
            for part in _parts(candidate):
                if part.text:
                    found.append(Delta(Channel.REASONING if part.thought else Channel.TEXT, part.text))
                    self._spoke = self._spoke or not part.thought
        return found

    def cut(self, error: BaseException) -> ProviderError | None:
        """The connection failed. None when the answer was complete: only usage may be missing."""
        return None if self.finish or self._blocked else lost(error)

    def finished(self) -> Finished:
        """The last word, when the body has ended. Raises `ProviderError` for an answer that is not one."""
        if self._blocked:
            raise ProviderError(code=Code.LLM_REFUSED, detail="prompt blocked")
        if self.finish is None:
            raise ProviderError(detail="ended without a finish reason")
        if self.finish in _REFUSES:
            raise ProviderError(code=Code.LLM_REFUSED, detail=f"finish_reason={self.finish}")
        reason = _FINISHES.get(self.finish)
        if reason is None:
            raise ProviderError(detail=f"finish_reason={self.finish if self.finish in _SLIPS else 'unknown'}")
        if not self._spoke:
            raise ProviderError(code=Code.LLM_BAD_OUTPUT, detail=f"empty answer, finish_reason={self.finish}")
        return Finished(reason, usage(self._usage), self._model, self._id)


def _parts(candidate: _Candidate) -> Iterable[_Part]:
    return (candidate.content.parts or ()) if candidate.content is not None else ()


def usage(counted: object) -> Usage:
    """Tokens under our names: what tools read is input, and `output_tokens` includes the thoughts, as it is billed.

    `counted` is the `usageMetadata` of an answer, whatever it holds; what can't be read is unknown.
    """
    fields = counted if isinstance(counted, dict) else {}
    counts = {name: token_count(fields.get(name)) for name in _COUNTS}
    return Usage(
        known_sum(counts["promptTokenCount"], counts["toolUsePromptTokenCount"]),
        counts["cachedContentTokenCount"],
        known_sum(counts["candidatesTokenCount"], counts["thoughtsTokenCount"]),
        counts["thoughtsTokenCount"],
    )
