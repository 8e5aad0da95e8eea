"""JSON that fits a schema: the fake's answer in JSON mode. Knows the usual words of JSON Schema and Gemini's types."""

from __future__ import annotations

import json
from random import Random
from typing import Any, Final

Json = dict[str, Any]

#: what JSON mode answers when no schema is in sight
PLAIN_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {
        "summary": {"type": "string"},
        "points": {"type": "array", "items": {"type": "string"}, "minItems": 3},
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
    },
}


def schema_in(text: str) -> Json | None:
    """The first JSON Schema of an object that stands in a prompt."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, _ = decoder.raw_decode(text, at)
        except ValueError:
            found = None
        if isinstance(found, dict) and ("properties" in found or found.get("type") == "object"):
            return found
        at = text.find("{", at + 1)
    return None


class Fitting:
    """Makes one value for one schema; `words` are what its strings are made of."""

    def __init__(self, schema: Json, rng: Random, words: list[str]) -> None:
        self._root, self._rng, self._words = schema, rng, words

    def value(self) -> Any:
        """A value that the schema accepts."""
        return self._any(self._root)

    def _any(self, schema: Json) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._rng.choice(schema["enum"])
        kind = schema.get("type", "object" if "properties" in schema else "string")
        kind = str(kind[0] if isinstance(kind, list) else kind).lower()
        make = {"object": self._object, "array": self._array, "integer": self._number, "number": self._number,
                "boolean": self._boolean, "null": self._null}.get(kind, self._string)  # fmt: skip
        return make(schema)

    def _resolved(self, schema: Json) -> Json:
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self._resolved(schema[several][0])
        if "$ref" not in schema:
            return schema
        target: Any = self._root
        for step in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[step]
        return self._resolved(target)

    def _object(self, schema: Json) -> Json:
        return {name: self._any(inner) for name, inner in schema.get("properties", {}).items()}

    def _array(self, schema: Json) -> list[Any]:
        low = int(schema.get("minItems", 2))
        return [self._any(schema.get("items", {})) for _ in range(min(low, int(schema.get("maxItems", low))))]

    def _number(self, schema: Json) -> int:
        low = int(schema["minimum"]) if "minimum" in schema else int(schema.get("exclusiveMinimum", -1)) + 1
        high = schema["maximum"] if "maximum" in schema else schema.get("exclusiveMaximum", low + 101) - 1
        return self._rng.randint(low, max(int(high), low))

    def _boolean(self, _: Json) -> bool:
        return self._rng.random() < 0.5

    def _null(self, _: Json) -> None:
        return None

    def _string(self, schema: Json) -> str:
        text = f"{self._rng.choice(self._words)} and {self._rng.choice(self._words)}"
        return text.ljust(int(schema.get("minLength", 0)), ".")[: int(schema.get("maxLength", 200))]
