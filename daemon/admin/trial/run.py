"""The course of a trial: settings in, results out, one after the other; what came back is written down at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from daemon import __version__, config, services
from daemon.admin.trial import postgres_probe, qstash_trip, redis_probe
from daemon.admin.trial.model_calls import Calls
from daemon.admin.trial.plan import Planned, plan
from daemon.admin.trial.result import UNREACHED, Result
from daemon.admin.trial.transcript import redacted, transcript
from daemon.config import Settings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError
from daemon.providers.registry import KEY_NAMES
from daemon.services import ServiceCatalog

PARTS: Final = ("models", "redis", "postgres", "qstash")
AWAY: Final = 75
FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be tried. Build it with `prepare`."""

    settings: Settings
    catalog: ServiceCatalog
    planned: Sequence[Planned]
    parts: frozenset[str]

    async def run(self, calls: Calls) -> AsyncGenerator[Result, None]:
        """Results as they come; servers first, for they cost nothing."""
        clock, s = SystemClock(), self.settings
        probes: dict[str, Callable[[], AsyncGenerator[Result, None]]] = {
            "redis": lambda: redis_probe.probe(s.redis, s.runtime.environment, clock),
            "postgres": lambda: postgres_probe.probe(s.postgres, clock),
            "qstash": lambda: qstash_trip.probe(s, self.catalog, clock),
            "models": lambda: calls.run(self.planned),
        }
        for name, probe in probes.items():
            if name in self.parts:
                async with aclosing(probe()) as found:
                    async for result in found:
                        yield result


def prepare(settings: Settings, only_models: Sequence[str], skip: Iterable[str]) -> Trial:
    """The trial of these settings. Raises `ConfigError` for a bad services file or an unknown model."""
    catalog = services.load(settings.runtime.services_file)
    unknown = [name for name in only_models if name not in catalog.models]
    if unknown:
        raise ConfigError([f"--model: {', '.join(unknown)} is not known; allowed: {', '.join(catalog.models)}"])
    models = [m for m in catalog.models.values() if not only_models or m.id in only_models]
    absent = {name: "" if getattr(settings.providers, f"{name}_api_key") else key for name, key in KEY_NAMES.items()}
    return Trial(settings, catalog, plan(models, absent), frozenset(PARTS) - frozenset(skip))


def exit_code(results: Sequence[Result]) -> int:
    """0: nothing fails. 75: something was not reached, and nothing else is wrong. 1: something is wrong."""
    kinds = {result.kind for result in results if result.state == "fails"}
    if not kinds:
        return 0
    return AWAY if kinds <= UNREACHED else FAILED


def write(directory: Path, settings: Settings, results: Sequence[Result], calls: Calls) -> list[str]:
    """Write transcripts and results, redacted, into a directory of their own; the names of the files.

    Raises OSError. The directory is closed to others: answers are nobody else's business.
    """
    secrets = config.secrets(settings)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {name: transcript(exchange, secrets) for name, exchange in calls.transcripts}
    told = {"version": __version__, "results": [asdict(result) for result in results]}
    files["results.json"] = redacted(json.dumps(told, ensure_ascii=False, indent=1).encode(), secrets)
    for name, content in files.items():
        (directory / name.replace("/", "_")).write_bytes(content)
    return [name.replace("/", "_") for name in files]
