"""Everything that is wrong with settings and services file, in one go and without asking any server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daemon import config, services
from daemon.config import Role, Settings
from daemon.domain.errors import ConfigError
from daemon.services import ServiceCatalog

_KEYS = {"deepseek": "deepseek_api_key", "openai": "openai_api_key", "gemini": "gemini_api_key"}


@dataclass(slots=True)
class Findings:
    """What `check` says. Secrets in `settings` are masked."""

    mistakes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)
    services_file: str = ""
    services: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    queues: list[str] = field(default_factory=list)
    no_color: str | None = None


def check_config(role: Role | None = None) -> Findings:
    """All mistakes and doubts of the environment and of the services file that it names."""
    found, settings = Findings(), None
    runtime = config.runtime_alone()
    found.no_color = runtime.no_color
    try:
        settings = config.load(role=role)
    except ConfigError as error:
        found.mistakes += error.mistakes
    else:
        found.settings = [entry._asdict() for entry in config.describe(settings)]
        found.warnings += settings.warnings
    try:
        catalog = services.load(runtime.services_file)
    except ConfigError as error:
        found.mistakes += error.mistakes
    else:
        found.services_file = catalog.source
        found.services, found.models, found.queues = list(catalog.services), list(catalog.models), list(catalog.queues)
        if settings is not None:
            found.warnings += keyless(catalog, settings)
    return found


def keyless(catalog: ServiceCatalog, settings: Settings) -> list[str]:
    """One line for each provider that models name and that has no key: their tasks would fail."""
    return [
        f"{_KEYS[provider].upper()} is not set: tasks of {', '.join(names)} would fail"
        for provider in _KEYS
        if getattr(settings.providers, _KEYS[provider]) is None
        and (names := [model.id for model in catalog.models.values() if model.provider == provider])
    ]
