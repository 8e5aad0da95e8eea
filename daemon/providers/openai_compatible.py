"""DeepSeek and OpenAI: chat completions through the `openai` package, raw lines under it.

The SDK builds, signs and sends the request and judges its status; the answer's lines are read and decoded here. Reason:
CPU a chunk, measured by `bench/parse_cost.py` in one run (median of 5 rounds of 40 streams x 100 chunks, 20 000 chunks
an arm, uvloop, 2 shared cores; ratios hold, microseconds vary with the machine):

    openai: the SDK parses             228 µs  x1.00     gemini: the SDK parses     274 µs  x1.20
    openai: raw lines, SDK's engine     96 µs  x0.42     gemini: our adapter         45 µs  x0.20
    openai: our adapter                 48 µs  x0.21     plain aiohttp, no adapter   27 µs  x0.12

Vendors' habits that this module answers: comments and blank lines while a request waits (DeepSeek),
`reasoning_content`, a last chunk with `choices: []` that holds the usage, ends without a finish reason, errors inside a
stream, refusals as 200, empty answers to JSON mode. The rest is `adapter`'s.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Unpack

import msgspec

from daemon.domain.errors import Code, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished, FinishReason, ModelRequest, Parameter
from daemon.providers.adapter import Adapter, Connection
from daemon.providers.error_mapping import (
    Refusal,
    known_words,
    lost,
    refused_parameter,
    retry_after_s,
    to_error,
    token_count,
)
from daemon.providers.reasoning import openai_fields

if TYPE_CHECKING:
    import httpx2
    import openai


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where OpenAI-compatible vendors differ in what they want to be sent."""

    name: str
    max_tokens_field: str
    user_field: str  #: where the opaque tag of the user goes

    @property
    def optional(self) -> dict[str, Parameter]:
        """The fields of a request that it can do without, and our names for them."""
        return {
            "temperature": "temperature", self.max_tokens_field: "max_output_tokens", self.user_field: "user_tag",
            "response_format": "json_output", "stream_options": "stream_usage",
            "reasoning_effort": "reasoning", "thinking": "reasoning", "extra_body": "reasoning",
        }  # fmt: skip


DIALECTS: Final = MappingProxyType(
    {
        "deepseek": Dialect("deepseek", "max_tokens", "user"),
        "openai": Dialect("openai", "max_completion_tokens", "safety_identifier"),
    }
)


class OpenAICompatible(Adapter["openai.AsyncOpenAI", "Answer"]):
    """One vendor's chat completions."""

    def __init__(self, dialect: Dialect, **connection: Unpack[Connection]) -> None:
        super().__init__(dialect.name, Answer, **connection)
        self._dialect = dialect

    def _build(self, http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
        import openai

        client = openai.AsyncOpenAI(
            api_key=self._api_key, base_url=self._base_url, max_retries=0, timeout=None, http_client=http
        )
        # the SDK reads these two from the environment; DeepSeek has no business with them, and settings have one reader
        client.organization = client.project = None
        return client

    @asynccontextmanager
    async def _posted(
        self, client: openai.AsyncOpenAI, request: ModelRequest, answer: Answer
    ) -> AsyncIterator[httpx2.Response]:
        sent = arguments(self._dialect, request)
        async with client.chat.completions.with_streaming_response.create(**sent) as response:
            answer.request_id = response.http_response.headers.get("x-request-id", "")
            yield response.http_response

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        sdk = importlib.import_module("openai")
        return sdk.APIStatusError, sdk.APIConnectionError

    def _judged(self, error: Any, request: ModelRequest, answer: Answer) -> ProviderError | None:
        if not hasattr(error, "status_code"):  # an APIConnectionError
            return answer.cut(error.__cause__ or error)
        fields = _fields(error.body)
        refusal = Refusal(
            error.status_code,
            known_words([fields.get("code"), fields.get("type"), fields.get("message")]),
            retry_after_s(error.response.headers),
        )
        refused = self._error(refusal)
        sent = arguments(self._dialect, request)
        names = sent.keys() | sent.get("extra_body", {}).keys()
        optional = {theirs: ours for theirs, ours in self._dialect.optional.items() if theirs in names}
        refused.parameter = refused_parameter(refusal, [fields.get("param")], fields.get("message"), optional)
        return refused


def arguments(dialect: Dialect, request: ModelRequest) -> dict[str, Any]:
    """The call as keyword arguments of the SDK. Pictures travel inline, after the text."""
    system = request.system
    if request.json_output and "json" not in (system + request.prompt).lower():
        system = f"{system}\nAnswer with one JSON object.".strip()  # both vendors refuse JSON mode without the word
    content: Any = request.prompt
    if request.pictures:
        content = [{"type": "text", "text": request.prompt}] + [
            {
                "type": "image_url",
                "image_url": {"url": f"data:{p.mime_type};base64,{base64.b64encode(p.data).decode()}"},
            }
            for p in request.pictures
        ]
    messages = [{"role": "system", "content": system}] if system else []
    found: dict[str, Any] = {
        "model": request.model_name,
        "messages": [*messages, {"role": "user", "content": content}],
        "stream": request.stream,
    }
    if request.stream:
        found["stream_options"] = {"include_usage": True}
    if request.json_output:
        found["response_format"] = {"type": "json_object"}
    if request.temperature is not None:
        found["temperature"] = request.temperature
    if request.max_output_tokens is not None:
        found[dialect.max_tokens_field] = request.max_output_tokens
    if request.user_tag:
        found[dialect.user_field] = request.user_tag
    found |= openai_fields(dialect.name, request.reasoning)
    for theirs, ours in dialect.optional.items():
        if not request.sends(ours):
            found.pop(theirs, None)
    return found


# --- the shape of an answer -------------------------------------------------------------------------------------


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: Any = None  #: read apart, by `usage`: a count that makes no sense must not void the text beside it
    error: _Error | None = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode
_FINISHES: Final = MappingProxyType[str, FinishReason]({"stop": "stop", "length": "length"})
_DONE: Final = b"[DONE]"


class Answer:
    """Folds the chunks of one answer. Pure: bytes in, pieces out; what is wrong with the answer is raised."""

    __slots__ = ("_model", "_refusal", "_spoke", "_usage", "finish", "over", "request_id")

    def __init__(self) -> None:
        self.finish: str | None = None
        self.over = False  #: the vendor said that nothing follows; the body may stay open for longer
        self.request_id = ""
        self._model = ""
        self._usage: Any = None
        self._spoke = False
        self._refusal = False

    def take(self, data: bytes) -> list[Delta]:
        """The deltas of one payload; none for a role or usage chunk. Raises `ProviderError`, `DecodeError`."""
        if data == _DONE:
            self.over = True
            return []
        chunk = _decode(data)
        if chunk.error is not None:
            raise to_error(self._in_stream(chunk.error), spoke=self._spoke)
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        self.request_id = self.request_id or chunk.id or ""
        found: list[Delta] = []
        for choice in chunk.choices or ():
            self.finish = choice.finish_reason or self.finish
            said = choice.delta or choice.message
            if said is None:
                continue
            if said.reasoning_content:
                found.append(Delta(Channel.REASONING, said.reasoning_content))
            if said.content:
                found.append(Delta(Channel.TEXT, said.content))
                self._spoke = True
            self._refusal = self._refusal or bool(said.refusal)
        return found

    def cut(self, error: BaseException) -> ProviderError | None:
        """The connection failed. None when the answer was complete: only usage may be missing."""
        return None if self.finish else lost(error)

    def finished(self) -> Finished:
        """The last word, when the body has ended. Raises `ProviderError` for an answer that is not one.

        `insufficient_system_resource` (DeepSeek) closes the model as overloaded if nothing was said, else is an error.
        """
        if self.finish is None:
            raise ProviderError(detail="ended without a finish reason")
        if self.finish == "content_filter" or (self._refusal and not self._spoke):
            raise ProviderError(code=Code.LLM_REFUSED, detail="content_filter")
        if self.finish == "insufficient_system_resource":
            raise to_error(Refusal(0, frozenset({self.finish})), spoke=self._spoke)
        reason = _FINISHES.get(self.finish)
        if reason is None:
            raise ProviderError(detail="finished for an unknown reason")
        if not self._spoke:
            raise ProviderError(code=Code.LLM_BAD_OUTPUT, detail=f"empty answer, finish_reason={reason}")
        return Finished(reason, usage(self._usage), self._model, self.request_id)

    @staticmethod
    def _in_stream(error: _Error) -> Refusal:
        status = error.code if isinstance(error.code, int) and 400 <= error.code <= 599 else 0
        return Refusal(status, known_words([error.code, error.type, error.message]))


def usage(counted: object) -> Usage:
    """Tokens under one name for both vendors; `output_tokens` includes the reasoning, as it is billed.

    `counted` is the `usage` object of an answer, whatever it holds; what can't be read is unknown.
    """
    fields = _fields(counted)
    cached = token_count(fields.get("prompt_cache_hit_tokens"))  # DeepSeek
    if cached is None:
        cached = token_count(_fields(fields.get("prompt_tokens_details")).get("cached_tokens"))  # OpenAI
    return Usage(
        token_count(fields.get("prompt_tokens")),
        cached,
        token_count(fields.get("completion_tokens")),
        token_count(_fields(fields.get("completion_tokens_details")).get("reasoning_tokens")),
    )


def _fields(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
