"""TypeScript says what the schemas say."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.contract_docs import schemas, typescript


def declare(schema: dict[str, Any]) -> str:
    return typescript.declarations([{"title": "Subject", "$defs": {}, **schema}])


def test_both_public_names_are_exported_once() -> None:
    """`WorkerBody` and `WorkerEvent` are the names that front ends import."""
    text = typescript.declarations([schemas.worker_body(), schemas.worker_event()])
    for name in ("WorkerBody", "WorkerEvent", "ErrorEvent", "Code", "TerminalEvent", "ScheduledWorkerBody"):
        assert text.count(f"export interface {name} ") + text.count(f"export type {name} =") == 1, name


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer"}, "number"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"enum": ["a", 1]}, '"a" | 1'),
        ({"$ref": "#/$defs/Usage"}, "Usage"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number | null"),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, '("a" | "b")[]'),
        ({"type": "object"}, "Record<string, unknown>"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "Record<string, string>"),
        ({"description": "anything"}, "unknown"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": []}, "{\n    a?: null;\n  }"),
    ],
)
def test_each_keyword_has_its_type(schema: dict[str, Any], expected: str) -> None:
    """Every form that the schemas use is translated."""
    outer = {"type": "object", "properties": {"field": schema}, "required": ["field"]}
    assert f"field: {expected};\n" in declare(outer)


def test_a_form_nobody_taught_it_is_an_error() -> None:
    """Better no file than one that says less than the schema."""
    with pytest.raises(ValueError, match="no TypeScript"):
        declare({"type": "object", "properties": {"field": {"oneOf": []}}, "required": []})
