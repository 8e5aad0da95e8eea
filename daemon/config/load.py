"""The settings of a process, read once: the only reader of the environment.

`load()` collects all mistakes before it raises. The settings themselves, with defaults and reasons, are in
`config.settings`, the rules that they keep with each other in `config.rules`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from daemon.config import rules, sources
from daemon.config.profiles import PROFILES
from daemon.config.settings import RuntimeSettings, Settings
from daemon.config.shown import Described, Rule, broken, unknown
from daemon.config.sources import Reading, Setting, SettingSource, settings_of
from daemon.config.types import parts_of_secret
from daemon.domain.errors import ConfigError

Role: TypeAlias = Literal["relay", "gateway", "daemon"]
_NEEDS: Mapping[Role | None, tuple[Rule, ...]] = MappingProxyType(
    {None: (), "relay": rules.RELAY_NEEDS, "gateway": rules.GATEWAY_NEEDS, "daemon": rules.DAEMON_NEEDS}
)
#: beside QSTREAMD_: a variable that begins so was meant for us, though others may have such names too
_PREFIXES = ("QUEUE_MAX_", "QUEUE_PARALLELISM_", "MODEL_CONCURRENCY_", "USER_CONCURRENCY_")


def load(environ: Mapping[str, str] | None = None, role: Role | None = None) -> Settings:
    """Settings from `environ` (None: the process's own), from `{NAME}_FILE` and from systemd's credentials.

    `role` also asks for what that process can't do without. Raises `ConfigError` with one line for each mistake.
    """
    settings, reading = _read(environ)
    known = settings_of(Settings)
    mistakes = [line for name in known for line in reading.mistakes.get(name, ())]
    mistakes += unknown(reading.environ, "QSTREAMD_", known)
    mistakes += broken((*rules.RULES, *_NEEDS[role]), settings, reading.mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    misspelt = [line for prefix in _PREFIXES for line in unknown(reading.environ, prefix, known)]
    found = MappingProxyType({name: reading.origins.get(name, "default") for name in known})
    return settings.model_copy(update={"sources": found, "warnings": (*misspelt, *broken(rules.WARNINGS, settings))})


def _read(environ: Mapping[str, str] | None) -> tuple[Settings, Reading]:
    """Every value that could be read; defaults stand in for the others."""
    reading = Reading(os.environ if environ is None else environ)
    places = (
        SettingSource(Settings, reading, "environment", sources.variable),
        SettingSource(Settings, reading, "file", sources.file),
        SettingSource(Settings, reading, "credentials", sources.credential),
        SettingSource(Settings, reading, "profile", _profile),
    )
    try:
        return Settings(_build_sources=(places, {})), reading  # type: ignore[call-arg]  # BaseSettings takes it
    except ValidationError as error:
        reading.refused(error, settings_of(Settings))
    return Settings(_build_sources=(places, {})), reading  # type: ignore[call-arg]  # without what was refused


def _profile(entry: Setting, reading: Reading) -> Any:
    """The default that the chosen profile has for it."""
    return PROFILES.get(reading.found.get("QSTREAMD_REDIS_PROFILE", ""), {}).get(entry.name)


def runtime_alone(environ: Mapping[str, str] | None = None) -> RuntimeSettings:
    """`RuntimeSettings` as far as they can be read, whatever else is wrong: `check` names all mistakes at once."""
    return _read(environ)[0].runtime


def catalogue() -> list[tuple[str, Setting]]:
    """Every setting there is, with the name of its group, in the order of `config.settings`."""
    return [(entry.group, entry) for entry in settings_of(Settings).values()]


def describe(settings: Settings) -> list[Described]:
    """Every setting with its value and where that came from; secrets are masked, so it may be printed."""
    return [
        Described(e.group, name, e.shown(e.of(settings)), settings.sources.get(name, "default"), e.kind.unit, e.reason)
        for name, e in settings_of(Settings).items()
    ]


def secrets(settings: Settings) -> list[str]:
    """Every secret that was given, for `logs.configure` to mask: whole, and the password inside a URL or key alone."""
    given = (e.of(settings) for e in settings_of(Settings).values() if e.kind.secret and e.of(settings) != e.default)
    items = (item for value in given for item in (value if isinstance(value, tuple) else (value,)))
    return [part for item in items for part in parts_of_secret(item.get_secret_value())]
