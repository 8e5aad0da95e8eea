"""Reads groups of settings out of one environment and shows them again: whence each value came, and what was wrong.

Knows no setting by name and never looks at `os.environ`: `load` hands the mapping in. Plain
dataclasses instead of a settings library, because every process would pay for it at each start (docs/decisions/).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

from daemon.config.types import MASK, Kind, SecretStr, parts_of_secret

Source = Literal["default", "profile", "environment", "file", "credentials"]
Group = TypeVar("Group")

FILE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One variable: its public name, its default, how it is read and why it is as it is."""

    name: str
    default: Any
    kind: Kind
    reason: str


def setting(name: str, default: Any, kind: Kind, reason: str) -> Any:
    """A dataclass field that is read from the variable `name`."""
    entry = Setting(name=name, default=default, kind=kind, reason=reason)
    return dataclasses.field(default=default, metadata={"setting": entry})


def settings_of(group: type | object) -> Iterator[tuple[str, Setting]]:
    """Attribute and `Setting` of each field of a group."""
    for field in dataclasses.fields(group):  # type: ignore[arg-type]  # every group is a dataclass
        yield field.name, field.metadata["setting"]


class Reader:
    """Reads groups out of one environment, notes where each value came from and collects all mistakes.

    `profile`: defaults by name that hold over those of the settings.
    """

    def __init__(self, environ: Mapping[str, str], profile: Mapping[str, Any] | None = None) -> None:
        self.environ = environ
        self._profile = profile or {}
        self.sources: dict[str, Source] = {}
        self.mistakes: list[str] = []
        self.wrong: set[str] = set()  #: names that have a mistake; rules about them need not be judged

    def group(self, cls: type[Group]) -> Group:
        """The group with every value that could be read; defaults stand in for mistakes."""
        values = {attribute: self._value(entry) for attribute, entry in settings_of(cls)}
        return cls(**values)

    def unknown(self, prefix: str, known: Iterable[str]) -> Iterator[str]:
        """One line for each variable with this prefix that nobody reads, with a hint at what may have been meant."""
        names = set(known)
        alike = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        for name in sorted(self.environ):
            if name.startswith(prefix) and name not in names and name.removesuffix("_FILE") not in names:
                close = difflib.get_close_matches(name.removeprefix(prefix), alike, n=1, cutoff=0.6)
                yield f"{name} is not a setting" + (f"; did you mean {prefix}{close[0]}?" if close else "")

    def _value(self, entry: Setting) -> Any:
        raw, source = self._raw(entry)
        self.sources[entry.name] = source
        if not raw:  # an empty variable is an unset one, as compose files and shells write it
            self.sources[entry.name] = "profile" if entry.name in self._profile else "default"
            return self._profile.get(entry.name, entry.default)
        try:
            return entry.kind.parse(raw)
        except ValueError:
            shown = MASK if entry.kind.secret else repr(raw[:80])
            self._wrong(entry, f"{entry.name}={shown} is not allowed; allowed: {entry.kind.allowed}")
            return entry.default

    def _raw(self, entry: Setting) -> tuple[str, Source]:
        name, file = entry.name, f"{entry.name}_FILE"
        given, path = self.environ.get(name, "").strip(), self.environ.get(file, "")
        if path and not entry.kind.secret:
            self._wrong(entry, f"{file}={path!r} is not allowed: only secrets may come from files; set {name}")
        elif path and given:
            self._wrong(entry, f"{name} and {file} are both set; allowed: one of them")
        elif path:
            return self._read(entry, Path(path), f"{file}={path!r}"), "file"
        directory = self.environ.get("CREDENTIALS_DIRECTORY", "")
        if not given and directory and entry.kind.secret:
            credential = Path(directory) / name.lower()
            if credential.exists():
                return self._read(entry, credential, f"credential {name.lower()!r}"), "credentials"
        return given, "environment"

    def _read(self, entry: Setting, path: Path, what: str) -> str:
        """The file's text; a mistake if it can't be read or holds nothing."""
        try:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
            if len(content) > FILE_BYTES_MAX:
                raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
            value = content.decode().rstrip("\r\n")
            if not value:
                raise ValueError("empty")
        except OSError as error:
            self._wrong(entry, f"{what} can't be read: {error.strerror}")
        except UnicodeDecodeError:
            self._wrong(entry, f"{what} can't be read: not UTF-8")
        except ValueError as error:
            self._wrong(entry, f"{what} can't be used: {error}")
        else:
            return value
        return ""

    def _wrong(self, entry: Setting, mistake: str) -> None:
        self.mistakes.append(mistake)
        self.wrong.add(entry.name)


# --- showing --------------------------------------------------------------------------------------------------------


class Described(NamedTuple):
    """One effective setting as people may see it: secrets masked."""

    group: str
    name: str
    value: Any
    source: Source
    unit: str
    reason: str


class Effective(NamedTuple):
    """One setting and the value in force."""

    group: str
    setting: Setting
    value: Any

    @property
    def shown(self) -> Any:
        """The value with secrets masked."""
        return self.value if self.value is None else self.setting.kind.show(self.value)


def effective(groups: Mapping[str, object]) -> Iterator[Effective]:
    """Every setting of these groups, by the name of its group, in the order they were declared."""
    for group, instance in groups.items():
        for attribute, entry in settings_of(instance):
            yield Effective(group, entry, getattr(instance, attribute))


def secrets_in(groups: Mapping[str, object]) -> Iterator[str]:
    """Every secret that was given, whole, and what in it is one by itself."""
    for _, entry, value in effective(groups):
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, SecretStr) and value != entry.default:
                yield from parts_of_secret(item.get_secret_value())


def text_of(value: Any) -> str:
    """A setting's shown value for people."""
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)
