"""How OpenAI-compatible vendors and Gemini are asked and answer: requests in, frames and bodies out. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, whatever its shape."""

    shape: str
    model: str
    stream: bool
    system: str
    prompt: str
    images: tuple[tuple[str, bytes], ...] = ()
    json_output: bool = False
    schema: Json | None = None
    max_tokens: int | None = None
    user: str = ""

    @property
    def conversation(self) -> str:
        """Stands for user, system text and prompt; the same for a retry of the same task."""
        return hashlib.sha256(f"{self.user}\0{self.system}\0{self.prompt}".encode()).hexdigest()[:16]

    @property
    def thinks(self) -> bool:
        """Whether the model's name says that it thinks aloud."""
        return any(word in self.model for word in ("reason", "think"))


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens, for the usage part."""

    input: int
    cached: int
    output: int
    thought: int


class Malformed(ValueError):
    """The request is not what the vendor's API takes."""


class Shape(Protocol):
    """One vendor's way to answer."""

    @property
    def name(self) -> str:
        """Either openai or gemini."""

    def asked(self, body: Json, model: str, *, stream: bool) -> Asked:
        """The request behind a body. Raises `Malformed`."""

    def delta(self, text: str, *, thought: bool) -> bytes:
        """One event with text."""

    def ended(self, reason: str, counted: Counted) -> bytes:
        """The last events. `reason`: stop, length, blocked, blocked-prompt or overloaded."""

    def whole(self, text: str, thought: str, reason: str, counted: Counted) -> bytes:
        """The body of an answer that does not stream."""

    def refusal(self, status: int, *, quota: bool = False, after_s: float | None = None) -> Json:
        """The body of an error."""


def _picture(mime: object, data: object) -> tuple[str, bytes]:
    try:
        return str(mime), base64.b64decode(str(data).replace("-", "+").replace("_", "/") + "==", validate=False)
    except (binascii.Error, ValueError) as error:
        raise Malformed("image data is not base64") from error


def _event(payload: Json) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


class OpenAIShape:
    """Chat completions as OpenAI and DeepSeek answer them."""

    name: Final = "openai"
    _FINISH: Final = {"blocked": "content_filter", "blocked-prompt": "content_filter",
                      "overloaded": "insufficient_system_resource"}  # fmt: skip
    _TYPES: Final = {
        400: ("invalid_request_error", "invalid_request_error"), 401: ("authentication_error", "invalid_api_key"),
        402: ("insufficient_balance", "insufficient_balance"), 403: ("permission_error", "permission_denied"),
        404: ("invalid_request_error", "model_not_found"), 422: ("invalid_request_error", "invalid_request_error"),
        429: ("rate_limit_error", "rate_limit_exceeded"), 503: ("server_error", "server_is_overloaded"),
        529: ("overloaded_error", "overloaded_error"),
    }  # fmt: skip

    def __init__(self, model: str = "", call_id: int = 0, *, usage: bool = True) -> None:
        self._head: Json = {"id": f"chatcmpl-fake{call_id}", "created": 1_700_000_000, "model": model}
        self._usage = usage

    def asked(self, body: Json, model: str, *, stream: bool) -> Asked:
        """Messages with text and image_url parts."""
        system: list[str] = []
        prompt: list[str] = []
        images: list[tuple[str, bytes]] = []
        for message in body.get("messages") or [{}]:
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
            for part in parts:
                if part.get("type") == "image_url":
                    head, _, data = str(part["image_url"]["url"]).partition(";base64,")
                    images.append(_picture(head.removeprefix("data:"), data))
                elif isinstance(part.get("text"), str):
                    (system if message.get("role") in ("system", "developer") else prompt).append(part["text"])
        if not prompt:
            raise Malformed("messages: no text")
        form = body.get("response_format") or {}
        return Asked(
            self.name, str(body.get("model", "")), bool(body.get("stream")), "\n".join(system), "\n".join(prompt),
            tuple(images), form.get("type") in ("json_object", "json_schema"),
            (form.get("json_schema") or {}).get("schema"),
            body.get("max_tokens") or body.get("max_completion_tokens"),
            str(body.get("user") or body.get("safety_identifier") or ""),
        )  # fmt: skip

    def delta(self, text: str, *, thought: bool) -> bytes:
        """A chunk with content or reasoning_content."""
        said = {"reasoning_content": text} if thought else {"content": text}
        return _event(self._chunk([{"index": 0, "delta": said, "finish_reason": None}]))

    def ended(self, reason: str, counted: Counted) -> bytes:
        """The finish chunk, the usage chunk with no choices, and [DONE]."""
        choice = {"index": 0, "delta": {}, "finish_reason": self._FINISH.get(reason, reason)}
        found = _event(self._chunk([choice]))
        if self._usage:
            found += _event({**self._chunk([]), "usage": self._counted(counted)})
        return found + b"data: [DONE]\n\n"

    def whole(self, text: str, thought: str, reason: str, counted: Counted) -> bytes:
        """A chat.completion."""
        message = {"role": "assistant", "content": text} | ({"reasoning_content": thought} if thought else {})
        choice = {"index": 0, "message": message, "finish_reason": self._FINISH.get(reason, reason)}
        body = {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._counted(counted)}
        return msgspec.json.encode(body)

    def refusal(self, status: int, *, quota: bool = False, after_s: float | None = None) -> Json:
        """The error object with type and code."""
        kind, code = self._TYPES.get(status, ("server_error", None))
        if quota:
            kind = code = "insufficient_quota"
        return {"error": {"message": f"fake refusal {status}", "type": kind, "param": None, "code": code}}

    def _chunk(self, choices: list[Json]) -> Json:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}

    @staticmethod
    def _counted(c: Counted) -> Json:
        output = c.output + c.thought
        return {
            "prompt_tokens": c.input, "completion_tokens": output, "total_tokens": c.input + output,
            "prompt_cache_hit_tokens": c.cached, "prompt_cache_miss_tokens": c.input - c.cached,
            "prompt_tokens_details": {"cached_tokens": c.cached},
            "completion_tokens_details": {"reasoning_tokens": c.thought},
        }  # fmt: skip


class GeminiShape:
    """generateContent as the Gemini API answers it."""

    name: Final = "gemini"
    _FINISH: Final = {"stop": "STOP", "length": "MAX_TOKENS", "blocked": "SAFETY"}
    _STATUS: Final = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
                      429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
                      504: "DEADLINE_EXCEEDED"}  # fmt: skip

    def __init__(self, model: str = "", call_id: int = 0) -> None:
        self._tail: Json = {"modelVersion": model, "responseId": f"fake{call_id}"}

    def asked(self, body: Json, model: str, *, stream: bool) -> Asked:
        """Contents with text and inlineData parts, in either spelling."""
        prompt, images = [], []
        for content in body.get("contents") or []:
            for part in content.get("parts") or []:
                if isinstance(part.get("text"), str):
                    prompt.append(part["text"])
                inline = _either(part, "inlineData")
                if inline is not None:
                    images.append(_picture(_either(inline, "mimeType"), inline.get("data", "")))
        if not prompt:
            raise Malformed("contents: no text")
        system = [p.get("text", "") for p in (_either(body, "systemInstruction") or {}).get("parts") or []]
        config = _either(body, "generationConfig") or {}
        return Asked(
            self.name, model, stream, "\n".join(system), "\n".join(prompt), tuple(images),
            _either(config, "responseMimeType") == "application/json",
            _either(config, "responseJsonSchema") or _either(config, "responseSchema"),
            _either(config, "maxOutputTokens"),
        )  # fmt: skip

    def delta(self, text: str, *, thought: bool) -> bytes:
        """A response with one part."""
        part: Json = {"text": text, "thought": True} if thought else {"text": text}
        return _event({"candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0}], **self._tail})

    def ended(self, reason: str, counted: Counted) -> bytes:
        """The response with the finish reason and the usage."""
        return _event(self._last([], reason, counted))

    def whole(self, text: str, thought: str, reason: str, counted: Counted) -> bytes:
        """One response, indented as Google does."""
        parts = [{"text": thought, "thought": True}] if thought else []
        return json.dumps(self._last([*parts, {"text": text}] if text else parts, reason, counted), indent=2).encode()

    def refusal(self, status: int, *, quota: bool = False, after_s: float | None = None) -> Json:
        """The error object with status and details."""
        google, details = "type.googleapis.com/google.rpc.", []
        if status == 429:
            limit = "GenerateRequestsPer" + ("DayPerProjectPerModel" if quota else "MinutePerProjectPerModel")
            details.append({"@type": google + "QuotaFailure", "violations": [{"quotaId": limit, "quotaValue": "10"}]})
        if after_s is not None:
            details.append({"@type": google + "RetryInfo", "retryDelay": f"{after_s:g}s"})
        if status == 401:
            details.append({"@type": google + "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"})
        status_word = self._STATUS.get(status, "UNKNOWN")
        error = {"code": status, "message": f"fake refusal {status}", "status": status_word, "details": details}
        return {"error": error}

    def _last(self, parts: list[Json], reason: str, counted: Counted) -> Json:
        if reason == "blocked-prompt":
            return {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": self._counted(counted), **self._tail}
        if reason == "overloaded":
            return self.refusal(503)
        candidate: Json = {"finishReason": self._FINISH[reason], "index": 0}
        if parts:
            candidate["content"] = {"parts": parts, "role": "model"}
        return {"candidates": [candidate], "usageMetadata": self._counted(counted), **self._tail}

    @staticmethod
    def _counted(c: Counted) -> Json:
        return {
            "promptTokenCount": c.input, "cachedContentTokenCount": c.cached, "candidatesTokenCount": c.output,
            "thoughtsTokenCount": c.thought, "totalTokenCount": c.input + c.output + c.thought,
        }  # fmt: skip


def _either(fields: Mapping[str, Any], camel: str) -> Any:
    """A field by its camelCase or snake_case name; the official client mixes both."""
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in camel)
    return fields.get(camel, fields.get(snake))
