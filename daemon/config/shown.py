"""What people are told of settings: values, rules that do not hold, names that nobody reads."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from daemon.config.sources import Source, settings_of


class Described(NamedTuple):
    """One setting in force as people may see it: secrets masked."""

    group: str
    name: str
    value: Any
    source: Source
    unit: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """`holds` gets the values of `names` in this order; `reason` says what goes wrong otherwise and what to do."""

    names: tuple[str, ...]
    holds: Callable[..., object]
    reason: str


def broken(rules: Iterable[Rule], settings: BaseModel, skip: Collection[str] = ()) -> list[str]:
    """One line for each rule that does not hold; rules about a name in `skip` are not judged."""
    known = settings_of(type(settings))
    values = {name: entry.of(settings) for name, entry in known.items()}
    judged = (rule for rule in rules if not any(name in skip for name in rule.names))
    found = (rule for rule in judged if not rule.holds(*(values[name] for name in rule.names)))
    return [f"{', '.join(_said(n, known[n].shown(values[n])) for n in rule.names)}: {rule.reason}" for rule in found]


def unknown(environ: Mapping[str, str], prefix: str, names: Collection[str]) -> Iterator[str]:
    """One line for each variable with this prefix that nobody reads, with a hint at what may have been meant."""
    alike = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    for name in sorted(environ):
        if name.startswith(prefix) and name not in names and name.removesuffix("_FILE") not in names:
            close = difflib.get_close_matches(name.removeprefix(prefix), alike, n=1, cutoff=0.6)
            yield f"{name} is not a setting" + (f"; did you mean {prefix}{close[0]}?" if close else "")


def text_of(value: Any) -> str:
    """A setting's shown value for people."""
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _said(name: str, value: Any) -> str:
    return f"{name} is not set" if value is None or value == [] else f"{name}={text_of(value)}"
