from __future__ import annotations

import pytest

from daemon.services.schemas import BadSchema, compact, validator


def test_the_same_schema_is_compiled_once() -> None:
    assert validator('{"type":"object"}') is validator('{"type":"object"}')


def test_a_schema_validates() -> None:
    compiled = validator('{"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"$defs":{"n":{"type":"integer"}}}')
    assert compiled.is_valid({"a": 1})
    assert not compiled.is_valid({"a": "1"})


def test_references_inside_a_schema_with_its_own_id_resolve() -> None:
    schema = '{"$ref":"urn:q#/$defs/z","$defs":{"k":{"$id":"urn:q","$defs":{"z":{}},"items":{"$ref":"#/$defs/z"}}}}'
    assert validator(schema).is_valid(1)


@pytest.mark.parametrize(
    "draft", ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
)
def test_known_drafts_are_used(draft: str) -> None:
    assert not validator(f'{{"$schema":"{draft}","type":"string"}}').is_valid(1)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "must be an object"),
        ('{"type":"objekt"}', r"at \$\.type: 'objekt'"),
        ('{"pattern":"("}', r"at \$\.pattern"),
        ('{"$ref":"http://127.0.0.1:1/x.json"}', "does not lead to a place inside"),
        ('{"prefixItems":[{"$ref":"#/$defs/y"}]}', "does not lead"),
        ('{"allOf":[{"$ref":"#nowhere"}]}', "'#nowhere' does not lead"),
        ('{"$ref":"#"}', "leads to itself"),
        ('{"$schema":"urn:mine"}', r"\$schema 'urn:mine' is not known"),
        ('{"$schema":1}', r"\$schema 1 is not known"),
        ('{"items":' * 120 + "{}" + "}" * 120, "nested"),
        ('{"x":' * 120 + "{}" + "}" * 120, "nested deeper than 100 levels"),
    ],
)
def test_a_bad_schema_says_why(schema: str, said: str) -> None:
    """Found when the file is read, not when the first answer comes; and never fetched from anywhere."""
    with pytest.raises(BadSchema, match=said):
        validator(schema)


def test_compact_keeps_keys_and_letters() -> None:
    assert compact('{ "b": "é",\n "a": 1 }'.encode()) == '{"b":"é","a":1}'
    for raw in (b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(BadSchema, match="not JSON"):
            compact(raw)
