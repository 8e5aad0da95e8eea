"""The answer of a json service: parsed strictly, validated against its schema, repaired in nothing.

`contentSha256` is over the raw text; what this gives is kept beside it, in `results.data`.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from jsonschema.exceptions import ValidationError, best_match

from daemon.domain.errors import Code, ProviderError
from daemon.domain.messages import read_body
from daemon.services import Service
from daemon.services.schemas import validator

PATH_CHARS_MAX: Final = 120

#: models without a JSON mode wrap the whole answer in one; unwrapping it changes no JSON
_FENCE: Final = re.compile(r"```(?:json)?[ \t]*\r?\n(.*?)\r?\n?```", re.DOTALL | re.IGNORECASE)
#: `\\u0000` that is an escape: an even number of backslashes before it
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
#: these say of a value only what the schema says already
_TELLING: Final = frozenset(
    {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
     "minItems", "maxItems", "minProperties", "maxProperties", "enum", "const", "pattern"}
)  # fmt: skip


def parse_output(text: str, service: Service, *, cut: bool = False) -> Any:
    """The document in `text`, valid under the service's schema; None for a text service.

    Without a schema any object or array is valid. One code fence around the whole answer is passed over; anything else
    that is not JSON is an error. Raises `ProviderError` with LLM_BAD_OUTPUT; its `detail` names the place in the
    document and the rule, and quotes nothing of the answer. `cut`: the answer hit its limit, and that is what is wrong.
    """
    if service.output != "json":
        return None
    try:
        return _document(text, service)
    except ProviderError as error:
        if not cut:
            raise
        limit = "" if service.max_output_tokens is None else f" = {service.max_output_tokens}"
        shortened = _bad(f"cut at its limit; raise max_output_tokens{limit} of the service ({error.detail})")
        shortened.cut = True
        raise shortened from None


def _document(text: str, service: Service) -> Any:
    document = _decoded(text.strip())
    if service.schema is not None:
        _check(document, service.schema)
    elif not isinstance(document, dict | list):
        raise _bad("the answer is neither an object nor an array")
    return document


def _decoded(text: str) -> Any:
    fenced = _FENCE.fullmatch(text)
    try:
        document = read_body((fenced[1] if fenced else text).encode())
    except msgspec.DecodeError as error:
        raise _bad(f"not JSON: {str(error)[:120]}") from None
    except (UnicodeEncodeError, RecursionError) as error:  # the first quotes the answer
        raise _bad(f"not JSON: {type(error).__name__}") from None
    if _NUL.search(text):
        raise _bad("a text holds the NUL character, which Postgres can't store")
    return document


def _check(document: Any, schema: str) -> None:
    try:
        error: ValidationError | None = best_match(validator(schema).iter_errors(document))
    except RecursionError:
        raise _bad("nested too deeply to validate") from None
    if error is not None:
        raise _bad(f"{error.json_path[:PATH_CHARS_MAX]}: {_rule(error)}")


def _rule(error: ValidationError) -> str:
    """What the schema asked for at that place, in the schema's words only."""
    allowed: Any = error.validator_value
    if error.validator == "required" and isinstance(error.instance, dict):
        return f"misses {', '.join(name for name in allowed if name not in error.instance)}"
    if error.validator in _TELLING:
        return f"must satisfy {error.validator} {msgspec.json.encode(allowed).decode()[:120]}"
    return f"must satisfy {error.validator}"


def _bad(detail: str) -> ProviderError:
    return ProviderError(code=Code.LLM_BAD_OUTPUT, detail=detail)
