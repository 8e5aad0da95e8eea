"""Lua scripts against their contracts: the comment at the head, the locals below it, the call that Python builds."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.redis_client.scripts import Call
from tests.rules.tree import ROOT, files

LINE: Final = 120
FILES: Final = [path for path in files("daemon", suffix=".lua") if path.name != "prelude.lua"]
PRELUDES: Final = [path for path in files("daemon", suffix=".lua") if path.name == "prelude.lua"]

each_script = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

#: a name, `names…` for many, `groups[one, two]…` for many groups, `group[one, two]?` for one or none
Names = list[tuple[str, tuple[str, ...], str]]


def contract(path: Path) -> dict[str, str]:
    """The parts of the comment at the head; the notes on single names are left out of KEYS and ARGV."""
    parts: dict[str, str] = {"": ""}
    part = ""
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("-- "):
            break
        text = line[3:]
        if label := re.match(r"(KEYS|ARGV|Reply|Repeatable): ", text):
            part, text = label[1], text[label.end() :]
        elif part in ("KEYS", "ARGV") and not parts[part].rstrip().endswith(","):
            continue
        parts[part] = f"{parts.get(part, '')} {text.strip()}"
    return parts


def names(listed: str) -> Names:
    """What a KEYS or ARGV part names, in order."""
    if listed.strip() == "none":
        return []
    found = re.findall(r"(\w+)(?:\[([^\]]+)\])?([…?]?)(?:, *|$)", listed.strip())
    assert ", ".join(f"{n}[{g}]{m}" if g else n + m for n, g, m in found) == listed.strip()
    return [(name, tuple(re.findall(r"\w+", group)), many) for name, group, many in found]


def builder(path: Path) -> Any:
    """The function in `scripts.py` of the room that builds the call."""
    return getattr(import_module(f"daemon.{path.parts[-3]}.scripts"), path.stem)


@each_script
def test_a_script_begins_with_its_contract(path: Path) -> None:
    """And names all its keys and arguments right below it, in that order; the rest knows names only."""
    parts = contract(path)
    assert set(parts) == {"", "KEYS", "ARGV", "Reply", "Repeatable"} and all(parts.values()), parts
    head, _, body = path.read_text("utf-8").partition("\n\n")
    body = re.sub(r"--.*", "", body)
    assert not re.search(r"\b(KEYS|ARGV)\b", body)
    code = "\n".join(line for line in head.splitlines() if not line.startswith("--"))
    for source in ("KEYS", "ARGV"):
        listed = names(parts[source])
        single = [name for name, _, many in listed if not many]
        local = re.search(
            rf"local ([\w,\s]+?) = (?:unpack\({source}(?:, 1, (\d+))?\)|{source}\[1\]$)", code, re.MULTILINE
        )
        assert (re.findall(r"\w+", local[1]) if local else []) == single
        if local and "unpack" in local[0]:  # without an end it would also take what comes in any number
            assert local[2] == (None if len(single) == len(listed) else str(len(single)))
        groups = re.findall(rf"take_records\({source}, [^{{]+\{{([^}}]*)\}}", code)
        declared = [
            group for _, group, _ in listed if group and (path.stem, group) != ("dead_letter", ("field", "value"))
        ]
        assert [tuple(re.findall(r"'(\w+)'", group)) for group in groups] == declared


def sample(name: str, annotation: Any, numbers: Any) -> tuple[Any, list[Any]]:
    """A value for a parameter, each one different, and what it is in KEYS or ARGV."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return sample(name, inner[0], numbers)
    if isinstance(annotation, type) and issubclass(annotation, tuple):
        record = annotation(*(next(numbers) for _ in annotation._fields))  # type: ignore[attr-defined]
        return record, list(record)
    if origin is Mapping:
        return {"field 1": "value 1", "field 2": "value 2"}, ["field 1", "value 1", "field 2", "value 2"]
    if origin is not None:  # a sequence
        pairs = [sample(f"{name}{at}", inner[0], numbers) for at in (1, 2)]
        return [value for value, _ in pairs], [flat for _, flats in pairs for flat in flats]
    value = name if annotation is str else name.encode() if annotation is bytes else next(numbers)
    return value, [value]


def record_fields(annotation: Any) -> tuple[str, ...]:
    """The fields of the records that a parameter holds."""
    inner = [annotation, *typing.get_args(annotation)]
    return next((kind._fields for kind in inner if hasattr(kind, "_fields")), ())


@each_script
def test_a_call_is_what_the_contract_says(path: Path) -> None:
    """The parameters are the names of the contract in their order, and so are the values in the call."""
    build, parts = builder(path), contract(path)
    parameters = inspect.signature(build).parameters
    hints, numbers = typing.get_type_hints(build), count(1)
    values = {name: sample(name, hints[name], numbers) for name in parameters}
    call: Call = build(**{name: value for name, (value, _) in values.items()})
    assert call.script.name == path.stem and call.script.source.endswith(path.read_text("utf-8"))
    expected_names: list[str] = []
    for source, sent in (("KEYS", call.keys), ("ARGV", call.args)):
        expected: list[Any] = []
        for name, group, many in names(parts[source]):
            if name not in parameters:
                assert name.endswith("_count") and not many, f"{name} is no parameter"
                expected.append(2)  # so many samples has each sequence
                continue
            expected_names.append(name)
            expected += values[name][1]
            assert group in (record_fields(hints[name]), ("field", "value")), name
            assert bool(many) == (typing.get_origin(hints[name]) is not None), name
        assert list(sent) == expected
    assert list(parameters) == expected_names
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())


def test_every_room_has_a_function_for_each_script_and_no_other() -> None:
    rooms = {path.parts[-3] for path in FILES}
    for room in rooms:
        module = import_module(f"daemon.{room}.scripts")
        made = {
            name for name, what in inspect.getmembers(module, inspect.isfunction) if what.__module__ == module.__name__
        }
        assert made == {path.stem for path in FILES if path.parts[-3] == room} == set(module.SCRIPTS)
    assert len({path.stem for path in FILES}) == len(FILES), "a name in two rooms"


def test_lines_fit_a_screen() -> None:
    """The linter says so too, of code."""
    for path in files("daemon", suffix=".lua"):
        long = [at for at, line in enumerate(path.read_text("utf-8").splitlines(), 1) if len(line) > LINE]
        assert long == [], path


def test_the_linter_knows_the_preludes_and_each_block_is_used() -> None:
    """The blocks that `.luacheckrc` allows are those that there are, in the rooms that get them."""
    rules = (ROOT / ".luacheckrc").read_text("utf-8")
    sources = {path: re.sub(r"--.*", "", path.read_text("utf-8")) for path in files("daemon", suffix=".lua")}
    for prelude, listed in zip(sorted(PRELUDES, reverse=True), ("common", "permits"), strict=True):
        defined = set(re.findall(r"^local (?:function )?(\w+)", sources[prelude], re.MULTILINE))
        allowed = re.search(rf"local {listed} = \{{(.*?)\}}", rules, re.DOTALL)
        assert allowed is not None
        assert defined - {"woken"} == set(re.findall(r'"(\w+)"', allowed[1]))
        for block in defined:
            assert len(re.findall(rf"\b{block}\b", "".join(sources.values()))) > 1, f"nobody uses {block}"
        for path in FILES:
            if listed == "common" or path.parts[-3] == prelude.parts[-3]:
                own = set(re.findall(r"\blocal (?:function )?(\w+)", sources[path]))
                assert not own & defined, f"{path.stem} hides {own & defined}"
