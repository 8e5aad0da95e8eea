"""Whether an answer is one that the OpenAPI description names: its status, its headers, its body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator

from daemon.contract_docs import openapi

DOCUMENT: Final = openapi.document()


@cache
def _judge(method: str, path: str, status: int, kind: str) -> Draft202012Validator | None:
    """None: there is no such answer."""
    schema = DOCUMENT["paths"][path][method]["responses"].get(str(status), {}).get("content", {}).get(kind)
    return schema and Draft202012Validator({**schema["schema"], "components": DOCUMENT["components"]})


def flaw(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> str:
    """What is not as described; "" if nothing. `path` as the description spells it; names of headers in lower case."""
    answer = DOCUMENT["paths"][path][method]["responses"].get(str(status))
    if answer is None:
        return f"status {status} is not described"
    missing = [name for name in answer.get("headers", ()) if name.lower() not in headers]
    if missing:
        return f"without {missing}"
    kind = headers.get("content-type", "").partition(";")[0]
    if not body and "content" not in answer:
        return ""
    judge = _judge(method, path, status, kind)
    if judge is None:
        return f"a body of {kind!r} is not described"
    if kind != "application/json":
        return ""
    told: Any = json.loads(body)
    found = next(judge.iter_errors(told), None)
    if found is None and "retry-after" in headers and told.get("retryAfter") != int(headers["retry-after"]):
        return "retryAfter is not Retry-After"
    return "" if found is None else found.message
