"""JSON Schemas of answers, compiled once. Never fetches a schema from anywhere: only references inside it resolve.

Called when a services file is read and by `output`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

if TYPE_CHECKING:
    from referencing._core import Resolver  # has no public name

_SPECIFICATION: Final = DRAFT202012  # of schemas that name none
NESTING_MAX: Final = 100  # deeper than any schema people write; keeps the walk below far from the recursion limit


class BadSchema(ValueError):
    """The text is not a usable JSON Schema; the message says why and where."""


def compact(raw: bytes) -> str:
    """A schema file as one line of JSON, keys as written. Raises `BadSchema`."""
    try:
        return json.dumps(json.loads(raw), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadSchema(f"not JSON: {error}") from error


@lru_cache(maxsize=256)
def validator(schema: str) -> Validator:
    """The compiled validator of a schema given as JSON; the same text gives the same object. Raises `BadSchema`.

    `format` is an annotation, as the specification has it, and refuses nothing.
    """
    try:
        document = json.loads(schema)
    except ValueError as error:
        raise BadSchema(f"not JSON: {error}") from error
    except RecursionError as error:
        raise BadSchema("nested too deeply") from error
    if not isinstance(document, dict):
        raise BadSchema("a JSON Schema must be an object")
    kind = _kind(document)
    try:
        kind.check_schema(document)
        root = _SPECIFICATION.create_resource(document)
        _check_references(Registry().with_resource("", root).crawl().resolver_with_root(root), document)
        compiled: Validator = kind(document, registry=Registry())
        probes: tuple[Any, ...] = ({}, [], "", 0, None)
        for probe in probes:  # a `$ref` that only leads to itself never comes back
            compiled.is_valid(probe)
    except SchemaError as error:
        raise BadSchema(f"at {error.json_path}: {error.message[:200]}") from error
    except RecursionError as error:
        raise BadSchema("nested too deeply, or a $ref that leads to itself") from error
    return compiled


def _kind(document: dict[str, Any]) -> Any:
    name = document.get("$schema")
    if name is None:
        return Draft202012Validator
    unknown: Any = None  # the declared type leaves no room for an answer that means "none of ours"
    kind = validator_for(document, default=unknown) if isinstance(name, str) else None
    if kind is None:
        raise BadSchema(f"$schema {name!r} is not known; allowed: the drafts of json-schema.org, or none for 2020-12")
    return kind


def _check_references(resolver: Resolver[Any], node: object, depth: int = 0) -> None:
    """Every `$ref` must lead somewhere now, not when the first answer meets it."""
    if depth > NESTING_MAX:
        raise BadSchema(f"nested deeper than {NESTING_MAX} levels")
    if isinstance(node, list):
        for value in node:
            _check_references(resolver, value, depth + 1)
    if not isinstance(node, dict):
        return
    if depth and isinstance(node.get("$id"), str):
        resolver = resolver.in_subresource(_SPECIFICATION.create_resource(node))
    for key, value in node.items():
        if key in ("$ref", "$dynamicRef") and isinstance(value, str):
            try:
                resolver.lookup(value)
            except (Unresolvable, ValueError) as error:
                raise BadSchema(f"{key} {value[:200]!r} does not lead to a place inside this schema") from error
        else:
            _check_references(resolver, value, depth + 1)
