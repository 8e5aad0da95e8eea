"""The tables of the protocol page, each read from the code that it describes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from types import FunctionType
from typing import Any, Final

import msgspec

from daemon import config
from daemon.config.types import SecretStr
from daemon.contract_docs.schemas import IMAGE_FORMS, Schema
from daemon.domain.errors import CODES
from daemon.domain.event_schema import EVENTS
from daemon.domain.events import Reason, Stage
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.domain.states import TERMINAL, TRANSITIONS, State
from daemon.redis_client import keys

#: the placeholders of the page for the arguments of the functions in `keys`
_PLACEHOLDERS: Final[dict[str, Any]] = {
    "queue": "Q", "task_id": "taskId", "model_id": "modelId", "tier": "tier", "user_id": "userId", "index": "N",
    "guard": "{guard}:…",
}  # fmt: skip
#: variables that others set and that are no part of the contract
_OF_THE_SYSTEM: Final = frozenset(
    {"NO_COLOR", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS"}
)
_TRAILING_NOTE: Final = re.compile(r"^    (\w+):[^#\n]*#: (.+)$", re.MULTILINE)
_NOTED_CONSTANT: Final = re.compile(r"^#: (.+)\n(\w+): Final = \"", re.MULTILINE)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells may not break the line."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def queues() -> str:
    """The queues that exist without any services file."""
    rows = (
        (f"`{q.name}`", q.tier, q.mode, q.parallelism, "image tasks" if q.vision else "text tasks")
        for q in DEFAULT_QUEUES.values()
    )
    return table(("queue", "tier", "mode", "at once in one process", "for"), rows)


def body_fields(schema: Schema) -> str:
    """The fields of a task message."""
    rows = (
        (f"`{name}`", _kind(field), "yes" if name in schema["required"] else "", field["description"])
        for name, field in schema["properties"].items()
    )
    return table(("field", "type", "required", "meaning"), rows)


def image_forms() -> str:
    """The three forms of an image."""
    rows = ((f"`{name}`", _names(form["properties"]), form["description"]) for name, form in IMAGE_FORMS.items())
    return table(("form", "fields", "meaning"), rows)


def redis_keys() -> str:
    """Every registered key with its content."""
    source = inspect.getsource(keys)
    notes = dict(_TRAILING_NOTE.findall(inspect.getsource(keys.QueueKeys)))
    rows = [(f"`{key}`", notes[name]) for name, key in keys.queue_keys("Q")._asdict().items()]
    for function in vars(keys).values():
        if isinstance(function, FunctionType) and function.__module__ == keys.__name__:
            example = function(**{name: _PLACEHOLDERS[name] for name in inspect.signature(function).parameters})
            rows.append((f"`{example}`", _first_line(function)))
    rows += [(f"`{getattr(keys, name)}`", note) for note, name in _NOTED_CONSTANT.findall(source)]
    return table(("key", "content"), rows)


def common_event_fields(schema: Schema) -> str:
    """What every event carries."""
    first = schema["$defs"][EVENTS[0].__name__]["properties"]
    own = {field.encode_name for event in EVENTS for field in _own_fields(event)}
    rows = [
        (f"`{name}`", _kind(field), field.get("description", "")) for name, field in first.items() if name not in own
    ]
    return table(("field", "type", "meaning"), [("`type`", "text", "one of the six below"), *rows[1:]])


def event_types(schema: Schema) -> str:
    """One section for each event: when it is written and what it adds."""
    sections = []
    for event in EVENTS:
        definition = schema["$defs"][event.__name__]
        rows = [
            (
                f"`{name}`",
                _kind(field),
                "" if name in definition["required"] else "optional",
                field.get("description", ""),
            )
            for name, field in definition["properties"].items()
            if name in {f.encode_name for f in _own_fields(event)}
        ]
        heading = f"### `{event.__struct_config__.tag}`\n\n{definition['description']}"
        sections.append(f"{heading}\n\n" + table(("field", "type", "", "meaning"), rows))
    return "\n\n".join(sections)


def usage_fields(schema: Schema) -> str:
    """The fields of `usage`."""
    return ", ".join(f"`{name}` ({_kind(field)})" for name, field in schema["$defs"]["Usage"]["properties"].items())


def stages() -> str:
    """The values of `stage`."""
    return ", ".join(f"`{stage}`" for stage in Stage)


def reasons() -> str:
    """The values of `reason`."""
    return ", ".join(f"`{reason}`" for reason in Reason)


def error_codes() -> str:
    """Every code with what it means for a retry, for HTTP and for users."""
    rows = (
        (
            f"`{code}`",
            "yes" if info.retryable else "no",
            info.disposition.value,
            info.http_status or "",
            info.en,
            info.zh,
        )
        for code, info in CODES.items()
    )
    return table(("code", "retryable", "disposition", "HTTP", "English", "中文"), rows)


def state_diagram() -> str:
    """The allowed transitions as a Mermaid diagram."""
    arrows = [f"    {a} --> {b}" for a, targets in TRANSITIONS.items() for b in State if b in targets]
    ends = [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {State.QUEUED}", *arrows, *ends])


def public_environment() -> str:
    """The variables that belong to the contract; the tunables have a page of their own."""
    rows = [
        (f"`{entry.name}`", _default(entry.default), entry.reason)
        for _, entry in config.catalogue()
        if not entry.name.startswith("QSTREAMD_") and entry.name not in _OF_THE_SYSTEM
    ]
    return table(("variable", "default", "note"), rows)


def _default(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if value not in (None, "", ()) else ""


def _own_fields(event: type[msgspec.Struct]) -> list[msgspec.structs.FieldInfo]:
    """The fields that not all events have."""
    inherited = {f.name for f in msgspec.structs.fields(event.__mro__[1])}
    return [f for f in msgspec.structs.fields(event) if f.name not in inherited]


def _first_line(function: FunctionType) -> str:
    text = (inspect.getdoc(function) or "").splitlines()[0]
    return text[:1].lower() + text[1:].removesuffix(".")


def _names(properties: Schema) -> str:
    return ", ".join(f"`{name}`" for name in properties)


def _kind(schema: Schema) -> str:
    """The type in words, with its limits."""
    branches = [b for b in schema.get("anyOf", [schema]) if b.get("type") != "null"]
    kind = branches[0]
    null = " or null" if len(branches) < len(schema.get("anyOf", [schema])) and "default" in schema else ""
    return _words(kind) + null


def _words(kind: Schema) -> str:
    if "$ref" in kind:
        return f"`{kind['$ref'].rsplit('/', 1)[-1]}`"
    if "enum" in kind:
        return " or ".join(f"`{value}`" for value in kind["enum"])
    if "pattern" in kind:
        return f"text `{kind['pattern']}`"
    if kind.get("type") == "string":
        least = kind.get("minLength", 0)
        return (
            f"text, {least or 'at most'}{' to ' if least else ' '}{kind['maxLength']}"
            if "maxLength" in kind
            else "text"
        )
    if kind.get("type") == "array":
        return f"list, at most {kind['maxItems']}"
    if kind.get("type") == "object":
        return f"object of text, at most {kind['maxProperties']}" if "maxProperties" in kind else "object"
    if kind.get("type") in ("integer", "number"):
        whole = "whole number" if kind["type"] == "integer" else "number"
        return f"{whole}, {kind['minimum']} to {kind['maximum']}" if "maximum" in kind else whole
    return str(kind.get("type", "any"))
