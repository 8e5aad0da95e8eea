"""The parts of the fake that need no server: faults, words, JSON that fits, the log of calls."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest

from daemon.dev.fake_llm import KINDS, CallLog, Fault
from daemon.dev.fake_llm.__main__ import _arguments
from daemon.dev.fake_llm.faults import Faults
from daemon.dev.fake_llm.fitting import PLAIN_SCHEMA, Fitting, schema_in
from daemon.dev.fake_llm.shapes import Asked, GeminiShape, Malformed, OpenAIShape
from daemon.dev.fake_llm.writing import described, dimensions, prose, thoughts, tokens, words

TOLD: dict[str, Any] = {
    "shape": "openai", "model": "m", "stream": True, "user": "", "conversation": "c", "images": 0
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("429-after-2", Fault("429", 2.0)),
        ("cut-once", Fault("cut", None, once=True)),
        ("503-after-0.5-once", Fault("503", 0.5, once=True)),
        *((kind, Fault(kind)) for kind in KINDS),
    ],
)
def test_faults_are_named(name: str, fault: Fault) -> None:
    assert Fault.parse(name) == fault


@pytest.mark.parametrize("name", ["nonsense", "200", "600", "", "cut-after", "cut-twice"])
def test_an_unknown_fault_is_told_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="keepalive-forever"):
        Fault.parse(name)


def test_a_plan_for_a_model_comes_before_one_for_any_and_that_before_its_name() -> None:
    faults = Faults()
    faults.plan(["500"])
    faults.plan(["cut", "ok"], "x-fault-503")
    taken = [faults.take("x-fault-503", "c") for _ in range(4)]
    assert [t and t.kind for t in taken] == ["cut", None, "500", "503"]
    assert faults.take("plain", "c") is None


def test_once_is_once_for_each_conversation() -> None:
    faults = Faults()
    taken = [faults.take("fault-cut-once", c) for c in ("a", "a", "b", "b")]
    assert [t is not None for t in taken] == [True, False, True, False]
    faults.clear()
    assert faults.take("fault-cut-once", "a") is not None


def test_tokens_are_the_text() -> None:
    text = prose("Review the résumé of a backend engineer with Redis", Random(1), 80) + "  "
    assert "".join(tokens(text)) == text
    assert len(tokens(text)) > 80
    assert tokens("") == []


def test_prose_is_made_of_the_prompts_words_and_always_the_same() -> None:
    prompt = "Review the résumé of Ada, a backend engineer who knows Postgres and Redis"
    assert prose(prompt, Random(3), 60) == prose(prompt, Random(3), 60)
    assert sum(word in prose(prompt, Random(3), 60) for word in ("résumé", "backend", "Postgres", "Redis")) >= 2
    assert "请评价" in " ".join(words("请评价这份简历"))
    assert prose("", Random(1), 10)
    assert thoughts("", Random(1))


def test_pictures_are_described_by_what_they_are() -> None:
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (7).to_bytes(4, "big") + (5).to_bytes(4, "big")
    gif = b"GIF89a" + (3).to_bytes(2, "little") + (2).to_bytes(2, "little")
    jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08" + (600).to_bytes(2, "big") + (800).to_bytes(2, "big") + b"\x03"
    assert [dimensions(d) for d in (png, gif, jpeg, b"RIFF", b"\xff\xd8\xff\xd9", b"")] == [
        (7, 5), (3, 2), (800, 600), None, None, None,
    ]  # fmt: skip
    assert described(()) == ""
    assert "2 pictures: image/jpeg of 800x600 pixels" in described((("image/jpeg", jpeg), ("image/webp", b"RIFF")))


SCHEMAS: list[dict[str, Any]] = [
    PLAIN_SCHEMA,
    {"type": "object", "properties": {
        "a": {"enum": [1, 2]}, "b": {"const": "x"},
        "c": {"type": ["number", "null"], "exclusiveMinimum": 3, "maximum": 9},
        "d": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 4},
        "e": {"type": "boolean"}, "f": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        "g": {"type": "string", "minLength": 60, "maxLength": 70},
        "h": {"oneOf": [{"type": "integer", "minimum": -5, "maximum": -2}]},
        "i": {"exclusiveMaximum": 4, "type": "integer"},
    }, "required": list("abcdefghi"),
     "$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("seed", range(5))
def test_json_fits_its_schema(schema: dict[str, Any], seed: int) -> None:
    jsonschema.validate(Fitting(schema, Random(seed), ["alpha", "beta"]).value(), schema)


def test_geminis_upper_case_types_are_understood() -> None:
    assert isinstance(Fitting({"type": "ARRAY", "items": {"type": "INTEGER"}}, Random(1), ["a"]).value()[0], int)


def test_a_schema_is_found_in_a_prompt() -> None:
    text = 'Fill {{ this }} in. Data: {"name": "x"}. Schema: ' + json.dumps(PLAIN_SCHEMA) + " Thanks."
    assert schema_in(text) == PLAIN_SCHEMA
    assert schema_in("no { schema here") is None


def test_the_log_counts_what_runs_at_once_and_how_it_ended(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.jsonl")
    with log.call("", **TOLD):
        with pytest.raises(ConnectionResetError), log.call("cut", **TOLD):
            raise ConnectionResetError
        log.stopping = True
        with pytest.raises(KeyboardInterrupt), log.call("", **TOLD):
            raise KeyboardInterrupt
        log.clear()
        assert log.max_at_once["m"] == 1
    written = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert [(w["event"], w["id"], w["at_once"]) for w in written] == [
        ("began", 1, 1), ("began", 2, 2), ("ended", 2, 2), ("began", 3, 2), ("ended", 3, 2), ("ended", 1, 1),
    ]  # fmt: skip
    assert [w["ending"] for w in written if w["event"] == "ended"] == ["closed", "stopped", "finished"]


def test_a_conversation_is_user_and_prompt_not_model() -> None:
    """A retry, or a fallback, is the same conversation."""
    one, two = (Asked("openai", m, stream=True, system="s", prompt="p", user="u") for m in ("a", "b"))
    assert one.conversation == two.conversation
    assert one.conversation != Asked("openai", "a", stream=True, system="s", prompt="q", user="u").conversation


def test_requests_are_read_in_both_spellings() -> None:
    inline = {"inline_data": {"mime_type": "image/png", "data": "AP8="}}
    body = {
        "contents": [{"parts": [{"text": "hi"}, inline]}], "system_instruction": {"parts": [{"text": "s"}]},
        "generation_config": {"response_mime_type": "application/json", "max_output_tokens": 3},
    }  # fmt: skip
    asked = GeminiShape().asked(body, "m", stream=True)
    assert (asked.images, asked.system, asked.json_output, asked.max_tokens) == (
        (("image/png", b"\x00\xff"),), "s", True, 3,
    )  # fmt: skip


def test_pictures_that_are_no_base64_are_refused() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}}
    with pytest.raises(Malformed):
        OpenAIShape().asked({"messages": [{"role": "user", "content": [part]}]}, "m", stream=False)


def test_the_command_line_has_the_constructors_choices() -> None:
    chosen = _arguments(["--port", "4001", "--tokens-per-s", "5", "--log", "calls.jsonl"])
    assert (chosen.port, chosen.tokens_per_s, chosen.log) == (4001, 5.0, Path("calls.jsonl"))
