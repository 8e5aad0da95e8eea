"""Gemini: generateContent through the `google-genai` package, raw lines under it (docs/decisions/0001-google-genai.md).

The SDK builds, signs and sends the request and judges its status; it has no public way to the lines of a stream, so the
HTTP client that it is handed (a public option) keeps the open answer for us and shows the SDK an empty one. Reasons:
its own reader raises on comments, ends silently when a stream is cut short, keeps the socket after `break`, and costs
more than 100 µs a chunk (bench/parse_cost.py; numbers in openai_compatible.py). API version and HTTP client are pinned:
both have changed between releases, and with them paths and error types. Never retries. What an answer says is read in
`gemini_answer`.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Unpack

from daemon.domain.errors import ProviderError
from daemon.domain.model_io import ModelRequest, Parameter
from daemon.providers.adapter import Adapter, Connection
from daemon.providers.error_mapping import refused_parameter, retry_after_s
from daemon.providers.gemini_answer import GeminiAnswer, blamed_fields, refusal
from daemon.providers.lenient_json import fields
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


class Gemini(Adapter["genai.Client", GeminiAnswer]):
    """Google's models."""

    def __init__(self, **connection: Unpack[Connection]) -> None:
        super().__init__("gemini", GeminiAnswer, **connection)

    def _build(self, http: httpx2.AsyncClient) -> genai.Client:
        from google import genai
        from google.genai import types

        options = types.HttpOptions(base_url=self._base_url, api_version=API_VERSION, httpx_async_client=http)
        return genai.Client(api_key=self._api_key, vertexai=False, http_options=options)

    @asynccontextmanager
    async def _posted(
        self, client: genai.Client, request: ModelRequest, answer: GeminiAnswer
    ) -> AsyncIterator[httpx2.Response]:
        response = await _post(client, request)
        try:
            yield response
        finally:
            await response.aclose()

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        return (importlib.import_module("google.genai.errors").APIError,)

    def _error_of(self, error: Any, request: ModelRequest, answer: GeminiAnswer) -> ProviderError:
        body = fields(error.details)
        said = body.get("error", body)
        named_s = retry_after_s(error.response.headers) if error.response is not None else None
        why = refusal(said, error.code, named_s)
        refused = self._error(why)
        sent = {theirs: ours for theirs, ours in _OPTIONAL.items() if request.sends(ours) and getattr(request, ours)}
        refused.parameter = refused_parameter(why, blamed_fields(said), fields(said).get("message"), sent)
        return refused


async def _post(client: genai.Client, request: ModelRequest) -> httpx2.Response:
    """The open answer to one call. Cancelled or failed, nothing stays open."""
    from daemon.providers.transport import capture_response

    contents, config = arguments(request)
    with capture_response() as captured:
        try:
            if request.stream:
                stream = await client.aio.models.generate_content_stream(
                    model=request.model_name, contents=contents, config=config
                )
                async for _ in stream:  # sends; the SDK sees an empty answer
                    pass
            else:
                await client.aio.models.generate_content(model=request.model_name, contents=contents, config=config)
            return captured[0]
        except BaseException:
            for response in captured:
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
