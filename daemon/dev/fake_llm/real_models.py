"""What the vendors' models refuse, for a `strict` fake: names they do not know, and parameters they do not take.

The facts and their sources are in `docs/guides/models.md`. Checked by name: nothing here follows a release by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

#: models that a vendor answers for today, of those that the guide recommends
OFFERED: Final = frozenset(
    {
        "deepseek-flash", "deepseek-v4-pro", "gpt-6-luna", "gpt-6.1-terra", "gpt-6.2-sol", "gemini-3.5-flash-lite",
        "gemini-3.8-flash",
    }
)  # fmt: skip
#: models that reason take no temperature but the default, and count their thoughts in `max_completion_tokens`
_REASONS: Final = re.compile(r"(gpt-[56]|o\d)([.-].*)?")


def refusal(model: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """Status and `error` object with which the vendor refuses this call; None where it answers."""
    if model not in OFFERED:
        return _unknown(model)
    if _REASONS.fullmatch(model):
        if body.get("temperature", 1) != 1:
            told = f"does not support {body['temperature']} with this model. Only the default (1) value is supported."
            return 400, _unsupported("value", "temperature", told)
        if model == "gpt-6.2-sol" and body.get("reasoning_effort") == "none":
            told = "does not support 'none' with this model. Supported values are: 'low', 'medium', and 'high'."
            return 400, _unsupported("value", "reasoning_effort", told)
        if "max_tokens" in body:
            told = "is not supported with this model. Use 'max_completion_tokens' instead."
            return 400, _unsupported("parameter", "max_tokens", told)
    # the vendor reads thinkingLevel and thinking_level; its SDK writes the latter
    thinking = (body.get("generationConfig") or {}).get("thinkingConfig") or {}
    if model == "gemini-3.8-flash" and "MINIMAL" in thinking.values():
        told = "Thinking level MINIMAL is not supported for this model. Please retry with other thinking level."
        return 400, {"code": 400, "message": told, "status": "INVALID_ARGUMENT"}
    return None


def _unknown(model: str) -> tuple[int, dict[str, Any]]:
    """DeepSeek says so with 400 and in the message only."""
    error: dict[str, Any] = {"param": None, "type": "invalid_request_error"}
    if model.startswith("deepseek"):
        told = f"The supported API model names are deepseek-flash, deepseek-v4-pro, but you passed {model}."
        return 400, {**error, "message": told, "code": "invalid_request_error"}
    told = f"The model `{model}` does not exist or you do not have access to it."
    return 404, {**error, "message": told, "code": "model_not_found", "status": "NOT_FOUND"}


def _unsupported(kind: str, parameter: str, told: str) -> dict[str, Any]:
    return {"message": f"Unsupported {kind}: '{parameter}' {told}", "type": "invalid_request_error",
            "param": parameter, "code": f"unsupported_{kind}"}  # fmt: skip
