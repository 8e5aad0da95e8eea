"""Where settings come from, as sources of pydantic-settings; what was found, where, and every mistake.

Knows no setting by name and never looks at `os.environ`: `load` hands the mapping in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from daemon.config.types import MASK, Kind, kind_of

Source = Literal["default", "profile", "environment", "file", "credentials"]

FILE_BYTES_MAX: Final = 64 * 1024


class Group(BaseModel):
    """A group of settings: read by the public names of its variables, made in code by the names of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, hide_input_in_errors=True)


def setting(name: str, default: Any, reason: str) -> Any:
    """A field that is read from the variable `name`."""
    return Field(default, validation_alias=name, description=reason)


class Setting(NamedTuple):
    """One variable: its place, its public name, its default, how it is read and why it is as it is."""

    group: str
    attribute: str
    name: str
    default: Any
    kind: Kind
    reason: str

    def of(self, settings: BaseModel) -> Any:
        """The value in force."""
        return getattr(getattr(settings, self.group), self.attribute)

    def shown(self, value: Any) -> Any:
        """A value of it, with secrets masked."""
        return None if value is None else self.kind.show(value)


@cache
def settings_of(model: type[BaseModel]) -> Mapping[str, Setting]:
    """Every setting of the groups in a model, by its public name, in the order they were declared."""
    groups = ((name, info.annotation) for name, info in model.model_fields.items())
    entries = (
        Setting(group, name, str(info.validation_alias), info.default, kind_of(info.annotation, tuple(info.metadata)),
                str(info.description))
        for group, members in groups if isinstance(members, type) and issubclass(members, Group)
        for name, info in members.model_fields.items()
    )  # fmt: skip
    return {entry.name: entry for entry in entries}


@dataclass(slots=True)
class Reading:
    """One look at an environment, by the names of settings: what was found first, where, and what is wrong."""

    environ: Mapping[str, str]
    found: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Source] = field(default_factory=dict)
    mistakes: dict[str, list[str]] = field(default_factory=dict)

    def refused(self, error: ValidationError, known: Mapping[str, Setting]) -> None:
        """Notes what pydantic refused, in our words, which name the variable and what it takes."""
        for name in dict.fromkeys(str(detail["loc"][1]) for detail in error.errors()):
            kind = known[name].kind
            shown = MASK if kind.secret else repr(self.found[name][:80])
            mistake = f"{name}={shown} is not allowed; allowed: {kind.allowed}"
            self.mistakes.setdefault(name, []).append(mistake)


Look: TypeAlias = Callable[[Setting, Reading], Any]


class SettingSource(PydanticBaseSettingsSource):
    """Looks for each setting in one place. What is wrong there becomes a mistake; None or no text counts as unset."""

    def __init__(self, settings_cls: type[BaseSettings], reading: Reading, origin: Source, look: Look) -> None:
        super().__init__(settings_cls)
        self._reading, self._origin, self._look = reading, origin, look

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The values of one group, by the names of variables; one that has a mistake is left to its default."""
        group, reading = {}, self._reading
        for entry in settings_of(self.settings_cls).values():
            if entry.group == field_name and entry.name not in reading.mistakes:
                try:
                    value = self._look(entry, reading)
                except ValueError as error:
                    reading.mistakes[entry.name] = [str(error)]
                    continue
                if value not in (None, ""):
                    group[entry.name] = reading.found.setdefault(entry.name, value)
                    reading.origins.setdefault(entry.name, self._origin)
        return group, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values of all groups."""
        fields = self.settings_cls.model_fields.items()
        return {name: group for name, info in fields if (group := self.get_field_value(info, name)[0])}


def variable(entry: Setting, reading: Reading) -> str:
    """`{NAME}`, without blanks around it; an empty one is unset, as compose files and shells write it."""
    return reading.environ.get(entry.name, "").strip()


def file(entry: Setting, reading: Reading) -> str:
    """`{NAME}_FILE`: the path of a file that holds a secret."""
    name = f"{entry.name}_FILE"
    path = reading.environ.get(name, "")
    if path and not entry.kind.secret:
        raise ValueError(f"{name}={path!r} is not allowed: only secrets may come from files; set {entry.name}")
    if path and entry.name in reading.found:
        raise ValueError(f"{entry.name} and {name} are both set; allowed: one of them")
    return _content(Path(path), f"{name}={path!r}") if path else ""


def credential(entry: Setting, reading: Reading) -> str:
    """A file in systemd's `CREDENTIALS_DIRECTORY`, unless a variable or a file was found: those are for one process."""
    directory, name = reading.environ.get("CREDENTIALS_DIRECTORY", ""), entry.name.lower()
    needed = directory and entry.kind.secret and entry.name not in reading.found
    return _content(Path(directory, name), f"credential {name!r}") if needed and Path(directory, name).exists() else ""


def _content(path: Path, what: str) -> str:
    """The file's text without the newline at its end. Raises ValueError if it can't be read or holds nothing."""
    try:
        with path.open("rb") as opened:
            raw = opened.read(FILE_BYTES_MAX + 1)
        value = raw.decode(errors="ignore" if len(raw) > FILE_BYTES_MAX else "strict").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{what} can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{what} can't be read: not UTF-8") from None
    if not value or len(raw) > FILE_BYTES_MAX:
        raise ValueError(f"{what} can't be used: {f'larger than {FILE_BYTES_MAX} bytes' if value else 'empty'}")
    return value
