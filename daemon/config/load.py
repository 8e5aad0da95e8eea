"""The settings of a process, read once: the only reader of the environment.

`load()` collects all mistakes before it raises. The settings themselves, with defaults and reasons, are in
`config.settings`, the rules that they keep with each other in `config.rules`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from daemon.config.profiles import PROFILES
from daemon.config.rules import DAEMON_NEEDS, DOUBTS, GATEWAY_NEEDS, RELAY_NEEDS, RULES, Rule, broken
from daemon.config.settings import (
    BlobSettings,
    EventSettings,
    GatewaySettings,
    GuardSettings,
    LeaseSettings,
    OpsSettings,
    PostgresSettings,
    ProviderSettings,
    QstashSettings,
    QueueSettings,
    RedisSettings,
    RelaySettings,
    RetrySettings,
    RuntimeSettings,
    ShutdownSettings,
    SystemdSettings,
)
from daemon.config.sources import Described, Reader, Setting, Source, effective, secrets_in, settings_of
from daemon.domain.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All groups. `load` builds it; `Settings()` is all defaults, for tests."""

    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    systemd: SystemdSettings = field(default_factory=SystemdSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    postgres: PostgresSettings = field(default_factory=PostgresSettings)
    qstash: QstashSettings = field(default_factory=QstashSettings)
    relay: RelaySettings = field(default_factory=RelaySettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    ops: OpsSettings = field(default_factory=OpsSettings)
    blobs: BlobSettings = field(default_factory=BlobSettings)
    queues: QueueSettings = field(default_factory=QueueSettings)
    guards: GuardSettings = field(default_factory=GuardSettings)
    lease: LeaseSettings = field(default_factory=LeaseSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    events: EventSettings = field(default_factory=EventSettings)
    shutdown: ShutdownSettings = field(default_factory=ShutdownSettings)
    providers: ProviderSettings = field(default_factory=ProviderSettings)
    sources: Mapping[str, Source] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Role: TypeAlias = Literal["relay", "gateway", "daemon"]
_NEEDS: Mapping[Role, Sequence[Rule]] = MappingProxyType(
    {"relay": RELAY_NEEDS, "gateway": GATEWAY_NEEDS, "daemon": DAEMON_NEEDS}
)
#: beside QSTREAMD_: a variable that begins so was meant for us, though others may have such names too
_PREFIXES = ("QUEUE_MAX_", "QUEUE_PARALLELISM_", "MODEL_CONCURRENCY_", "USER_CONCURRENCY_")


def load(environ: Mapping[str, str] | None = None, role: Role | None = None) -> Settings:
    """Settings from `environ` (None: the process's own), from `{NAME}_FILE` and from systemd's credentials.

    `role` also asks for what that process can't do without. Raises `ConfigError` with one line for each mistake.
    """
    given = os.environ if environ is None else environ
    reader = Reader(given, PROFILES[Reader(given).group(RedisSettings).profile])
    groups: dict[str, Any] = {name: reader.group(type(group)) for name, group in _groups(Settings()).items()}
    settings = Settings(**groups, sources=MappingProxyType(reader.sources))
    known = [entry.name for _, entry in catalogue()]
    mistakes = [*reader.mistakes, *reader.unknown("QSTREAMD_", known)]
    mistakes += _broken((*RULES, *_NEEDS[role]) if role else RULES, settings, reader.wrong)
    if mistakes:
        raise ConfigError(mistakes)
    misspelt = [line for prefix in _PREFIXES for line in reader.unknown(prefix, known)]
    return replace(settings, warnings=(*misspelt, *_broken(DOUBTS, settings)))


def runtime_alone(environ: Mapping[str, str] | None = None) -> RuntimeSettings:
    """`RuntimeSettings` as far as they can be read, whatever else is wrong: `check` names all mistakes at once."""
    return Reader(os.environ if environ is None else environ).group(RuntimeSettings)


def require_relay(settings: Settings) -> None:
    """Raises `ConfigError` naming what a relay lacks; `load(role="relay")` says it together with all else."""
    _require("relay", settings)


def require_daemon(settings: Settings) -> None:
    """Raises `ConfigError` naming what a daemon lacks; `load(role="daemon")` says it together with all else."""
    _require("daemon", settings)


def catalogue() -> list[tuple[str, Setting]]:
    """Every setting there is, with the name of its group, in the order of this file."""
    return [(name, entry) for name, group in _groups(Settings()).items() for _, entry in settings_of(group)]


def describe(settings: Settings) -> list[Described]:
    """Every setting with its effective value and where that came from; secrets are masked, so it may be printed."""
    source = settings.sources
    return [
        Described(e.group, e.setting.name, e.shown, source.get(e.setting.name, "default"), e.setting.kind.unit,
                  e.setting.reason)
        for e in effective(_groups(settings))
    ]  # fmt: skip


def secrets(settings: Settings) -> list[str]:
    """Every secret that was given, for `logs.configure` to mask: whole, and the password inside a URL or key alone."""
    return list(secrets_in(_groups(settings)))


def _groups(settings: Settings) -> dict[str, object]:
    return {f.name: getattr(settings, f.name) for f in fields(Settings) if f.name not in ("sources", "warnings")}


def _broken(rules: Sequence[Rule], settings: Settings, skip: Collection[str] = ()) -> list[str]:
    everything = list(effective(_groups(settings)))
    values = {e.setting.name: e.value for e in everything}
    return list(broken(rules, values, {e.setting.name: e.shown for e in everything}, skip))


def _require(role: Role, settings: Settings) -> None:
    mistakes = _broken(_NEEDS[role], settings)
    if mistakes:
        raise ConfigError(mistakes)
