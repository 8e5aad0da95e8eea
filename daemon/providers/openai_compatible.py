"""DeepSeek and OpenAI: chat completions through the `openai` package, raw lines under it.

The SDK builds, signs and sends the request and judges its status; the answer's lines are read and decoded here. Reason:
CPU a chunk, measured by `bench/parse_cost.py` in one run (median of 5 rounds of 40 streams x 100 chunks, 20 000 chunks
an arm, uvloop, 2 shared cores; ratios hold, microseconds vary with the machine):

    openai: the SDK parses             228 µs  x1.00     gemini: the SDK parses     274 µs  x1.20
    openai: raw lines, SDK's engine     96 µs  x0.42     gemini: our adapter         45 µs  x0.20
    openai: our adapter                 48 µs  x0.21     plain aiohttp, no adapter   27 µs  x0.12

What an answer says is read in `openai_answer`; the rest is `adapter`'s.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Unpack

from daemon.domain.errors import ProviderError
from daemon.domain.model_io import ModelRequest, Parameter
from daemon.providers.adapter import Adapter, Connection
from daemon.providers.error_mapping import refused_parameter, retry_after_s
from daemon.providers.lenient_json import fields
from daemon.providers.openai_answer import OpenAIAnswer, refusal_of
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


class OpenAICompatible(Adapter["openai.AsyncOpenAI", OpenAIAnswer]):
    """One vendor's chat completions."""

    def __init__(self, dialect: Dialect, **connection: Unpack[Connection]) -> None:
        super().__init__(dialect.name, OpenAIAnswer, **connection)
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
        self, client: openai.AsyncOpenAI, request: ModelRequest, answer: OpenAIAnswer
    ) -> AsyncIterator[httpx2.Response]:
        sent = arguments(self._dialect, request)
        async with client.chat.completions.with_streaming_response.create(**sent) as response:
            answer.request_id = response.http_response.headers.get("x-request-id", "")
            yield response.http_response

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        sdk = importlib.import_module("openai")
        return sdk.APIStatusError, sdk.APIConnectionError

    def _error_of(self, error: Any, request: ModelRequest, answer: OpenAIAnswer) -> ProviderError | None:
        if not hasattr(error, "status_code"):  # an APIConnectionError
            return answer.cut(error.__cause__ or error)
        told = fields(error.body)
        refusal = refusal_of(error.body, error.status_code, retry_after_s(error.response.headers))
        refused = self._error(refusal)
        sent = arguments(self._dialect, request)
        names = sent.keys() | sent.get("extra_body", {}).keys()
        optional = {theirs: ours for theirs, ours in self._dialect.optional.items() if theirs in names}
        refused.parameter = refused_parameter(refusal, [told.get("param")], told.get("message"), optional)
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
