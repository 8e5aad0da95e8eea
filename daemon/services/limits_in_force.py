"""Which limit is in force: the one place that says so, for relay, gateway, daemon and operators.

Three may set a limit: an operator's order in the queue's control hash (`ordered`, None where there is none), the
environment, and the services file. Pure, but for `queues_in_force`, which reads the services file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from daemon.config import GuardSettings, QueueSettings, Settings
from daemon.domain.errors import ConfigError
from daemon.domain.queues import QueueSpec, Tier
from daemon.services.catalog import Model, ServiceCatalog, nearest
from daemon.services.reader import load

UNLIMITED: Final = 1_000_000  #: permits of a limiter whose limit was never set


def parallelism_of(spec: QueueSpec, settings: QueueSettings, ordered: int | None = None) -> int:
    """Attempts at once of one process: order over environment over services file."""
    return slots_of(settings.of("parallelism", spec.name) or spec.parallelism, ordered)


def slots_of(configured: int, ordered: int | None) -> int:
    """The same where the configured number is known: an order wins."""
    return ordered or configured


def max_size_of(spec: QueueSpec, settings: QueueSettings, ordered: int | None = None) -> int:
    """When the queue is full: order (0: it takes nothing) over services file over environment."""
    if ordered is not None:
        return ordered
    return spec.max_size or settings.of("max", spec.name) or settings.max_size


def limit_of(model: Model, tier: Tier, settings: GuardSettings) -> int:
    """Attempts of this model and tier at once, over all processes: services file over environment."""
    return model.concurrency.get(tier) or (settings.model_paid if tier is Tier.PAID else settings.model_free)


def user_limit_of(tier: Tier, settings: GuardSettings) -> int:
    """Attempts of one user in this tier at once, over all processes."""
    return settings.user_paid if tier is Tier.PAID else settings.user_free


def queue_limit_of(ordered: int | None) -> int:
    """Attempts of one queue at once, over all processes: only an order limits them."""
    return ordered or UNLIMITED


def spec_in_force(catalog: ServiceCatalog, name: str, settings: QueueSettings) -> QueueSpec:
    """The queue of that name with its parallelism in force. Raises `ConfigError` when there is none."""
    spec = catalog.queues.get(name)
    if spec is None:
        raise ConfigError(
            [f"--queues: {name!r} is not known{nearest(name, catalog.queues)}; allowed: {', '.join(catalog.queues)}"]
        )
    return replace(spec, parallelism=parallelism_of(spec, settings))


def queues_in_force(settings: Settings) -> dict[str, QueueSpec]:
    """Every queue of the services file with the size that is in force. Raises `ConfigError` for a bad file."""
    known = load(settings.runtime.services_file, deep=False).queues
    return {name: replace(spec, max_size=max_size_of(spec, settings.queues)) for name, spec in known.items()}
