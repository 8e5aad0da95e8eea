from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from daemon.domain.errors import Code, TaskError
from daemon.services.output import parse_output
from tests.unit.pipeline.messages import LOOK, REVIEW

SCHEMA = {
    "type": "object",
    "required": ["score", "items"],
    "additionalProperties": False,
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
        "items": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["name"]}},
        "kind": {"enum": ["a", "b"]},
        "any": {"anyOf": [{"type": "string"}, {"type": "number"}]},
        "tree": {"$ref": "#/$defs/tree"},
    },
    "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
}
SERVICE = dataclasses.replace(LOOK, schema=json.dumps(SCHEMA))
FREE = dataclasses.replace(LOOK, schema=None)
GOOD: dict[str, Any] = {"score": 5, "items": [{"name": "x"}]}


def complaint(text: str, service: Any = SERVICE) -> str:
    with pytest.raises(TaskError) as caught:
        parse_output(text, service)
    assert caught.value.code is Code.LLM_BAD_OUTPUT
    assert caught.value.message == "The model's answer could not be used."
    return caught.value.detail


def test_a_valid_answer_is_its_document() -> None:
    assert parse_output(json.dumps(GOOD), SERVICE) == GOOD
    assert parse_output(f"\n {json.dumps(GOOD)}\n", SERVICE) == GOOD


def test_half_an_emoji_in_an_answer_becomes_the_replacement_character() -> None:
    assert parse_output(r'{"a": "cut \ud83d", "b": "\ud83d\ude00"}', FREE) == {"a": "cut \ufffd", "b": "😀"}


def test_a_text_service_has_no_document() -> None:
    assert parse_output("{}", REVIEW) is None


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", " ```JSON \r\n{}\r\n```\n", "```json\n{}```"])
def test_one_fence_around_the_whole_answer_is_passed_over(fence: str) -> None:
    assert parse_output(fence, FREE) == {}


@pytest.mark.parametrize(
    "text",
    [
        "", "Here you are: {}", "{} I hope this helps", "```json\n{}\n``` done", "```json\n{}\n```\n```json\n{}\n```",
        "{'a': 1}",
        '{"a": 1,}', '{"a": NaN}', '{"a": 1', "{} {}", "[" * 100_000, '{"a": "\ud800"}', '{"a": 1e999}', "// no\n{}",
    ],
)  # fmt: skip
def test_nothing_else_is_repaired(text: str) -> None:
    """What is not JSON is retried, never guessed at."""
    assert complaint(text, FREE).startswith("not JSON: ")


def test_an_answer_without_a_schema_is_an_object_or_an_array() -> None:
    assert parse_output("[1]", FREE) == [1]
    assert complaint('"sorry"', FREE) == "the answer is neither an object nor an array"
    assert complaint("null", FREE) == "the answer is neither an object nor an array"


def test_nul_characters_are_refused_because_postgres_can_not_keep_them() -> None:
    assert "NUL" in complaint('{"a": ["x\\u0000"]}', FREE)
    assert "NUL" in complaint('{"a\\u0000": 1}', FREE)
    assert "NUL" in complaint('{"a": "\\\\\\u0000"}', FREE)
    assert parse_output('{"a": "\\\\u0000"}', FREE) == {"a": "\\u0000"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": "secret"}, '$.score: must satisfy type "integer"'),
        ({"score": 101}, "$.score: must satisfy maximum 100"),
        ({"score": -1}, "$.score: must satisfy minimum 0"),
        ({"items": [{"name": "x"}, {"secret": 1}]}, "$.items[1]: misses name"),
        ({"items": []}, "$.items: must satisfy minItems 1"),
        ({"kind": "secret"}, '$.kind: must satisfy enum ["a","b"]'),
        ({"any": ["secret"]}, "$.any: must satisfy"),
        ({"secret": 1}, "$: must satisfy additionalProperties"),
        ({"items": {}}, '$.items: must satisfy type "array"'),
    ],
)
def test_an_invalid_answer_is_placed_and_never_quoted(change: dict[str, Any], said: str) -> None:
    """The detail names the JSON path and the rule; the answer itself stays out of logs and rows."""
    detail = complaint(json.dumps(GOOD | change))
    assert said in detail
    assert "secret" not in detail


def test_missing_members_are_named_together() -> None:
    assert complaint("{}") == "$: misses score, items"


def test_long_rules_and_paths_are_cut() -> None:
    wide = dataclasses.replace(LOOK, schema=json.dumps({"enum": ["x" * 50] * 2 + list(range(200))}))
    assert len(complaint("{}", wide)) < 200


def test_a_document_too_deep_to_validate_is_refused() -> None:
    deep = "[" * 300 + "]" * 300
    text = f'{{"score": 1, "items": [{{"name": "x"}}], "tree": {deep}}}'
    assert complaint(text) == "nested too deeply to validate"
