"""How much a model shall think, in each vendor's words. Pure; used by both adapters when they build a request.

The facts and their sources: docs/guides/models.md. A model that does not know a value answers 400; that is learned like
any other refused parameter, and the call is made again without it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from daemon.domain.model_io import Reasoning

if TYPE_CHECKING:
    from google.genai import types

#: tokens of thought for Gemini 2.5, which knows no levels: what Google's own OpenAI-compatible API makes of the words
_BUDGETS: Final = MappingProxyType[Reasoning, int]({"off": 0, "low": 1024, "medium": 8192, "high": 24576})


def openai_fields(vendor: str, reasoning: Reasoning | None) -> dict[str, Any]:
    """Arguments of a chat completion. `none` is OpenAI's word for off; DeepSeek has a switch beside the effort."""
    if reasoning is None:
        return {}
    if vendor != "deepseek":
        return {"reasoning_effort": "none" if reasoning == "off" else reasoning}
    if reasoning == "off":
        return {"extra_body": {"thinking": {"type": "disabled"}}}
    return {"reasoning_effort": reasoning, "extra_body": {"thinking": {"type": "enabled"}}}


def gemini_config(model_name: str, reasoning: Reasoning) -> types.ThinkingConfig:
    """`thinkingConfig`: a budget for Gemini 2.5, a level for all later ones; both together are refused.

    Off is `minimal` for Gemini 3 (nearly none) and a budget of 0 for Gemini 4, which has no such level.
    """
    from google.genai import types

    generation = model_name.removeprefix("models/").removeprefix("gemini-")
    if generation.startswith("2.") or (reasoning == "off" and not generation.startswith("3")):
        return types.ThinkingConfig(thinking_budget=_BUDGETS[reasoning])
    return types.ThinkingConfig(thinking_level=types.ThinkingLevel("MINIMAL" if reasoning == "off" else reasoning))
