"""The services file as immutable values: what a model is, what a service is, and the questions asked of both.

Never reads a file and never checks one; `daemon.services.reader` builds it. A reload builds a new book and the caller
swaps it in: an attempt keeps the book it began with.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from daemon.domain.events import Usage
from daemon.domain.model_io import Reasoning
from daemon.domain.queues import QueueSpec, Tier
from daemon.services.prices import OffPeak, Price, price_at, priced

Output = Literal["text", "json"]

DIRECT: Final = "direct"  #: `proxy` of a model that goes around QSTREAMD_HTTPS_PROXY

#: `templateId` of a message, `template` of a service
TEMPLATE_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(@[A-Za-z0-9][A-Za-z0-9_.-]{0,31})?"
_TEMPLATE: Final = re.compile(TEMPLATE_PATTERN)


def is_template_ref(ref: str) -> bool:
    """True for `name` or `name@version`."""
    return _TEMPLATE.fullmatch(ref) is not None


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean "x"?` when one of `allowed` is close to `name`, else the empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


@dataclass(frozen=True, slots=True)
class Model:
    """One `[models.*]` table: a modelId, as messages, limiters and events name it."""

    id: str
    provider: str  #: deepseek | openai | gemini
    name: str  #: what the provider calls it
    takes_images: bool = False
    #: attempts at once over all processes; a tier that is absent falls back to MODEL_CONCURRENCY_*
    concurrency: Mapping[Tier, int] = field(default_factory=lambda: MappingProxyType({}))
    requests_per_minute: int | None = None  #: None: no limit of ours
    tokens_per_minute: int | None = None
    prices: tuple[Price, ...] = ()  #: by date; none: what a call costs is unknown, which is not zero
    off_peak: tuple[OffPeak, ...] = ()  #: hours at which it costs less
    proxy: str = field(default="", repr=False)  #: http://… or DIRECT; "": QSTREAMD_HTTPS_PROXY decides
    reasoning: Reasoning | None = None  #: how much it thinks; None: as the provider has it
    sampling: bool = True  #: False: the model refuses a temperature, so none is sent

    @property
    def price(self) -> Price | None:
        """The dearest one, for estimates."""
        return max(self.prices, key=lambda price: price.output, default=None)


@dataclass(frozen=True, slots=True)
class Service:
    """One `[services.*]` table. Exactly one of `prompt` (a Jinja source) and `template` (a row in Postgres) is set."""

    id: str
    title: str
    system: str  #: a Jinja source too; "" for none
    prompt: str | None
    template: str | None  #: `name` or `name@version`
    models: Mapping[Tier, tuple[str, ...]]  #: modelIds: the first is the default, the rest are fallbacks
    takes_images: bool  #: True only if every one of its models does
    output: Output = "text"
    schema: str | None = None  #: JSON Schema as compact JSON; the result of a json service is validated against it
    max_output_tokens: int | None = None
    temperature: float | None = None
    first_token_s: float = 60.0
    idle_s: float = 60.0  #: longest silence between two tokens
    total_s: float = 240.0
    attempts: int = 3  #: failures allowed, then dead letter


@dataclass(frozen=True, slots=True)
class ServiceCatalog:
    """Everything one services file says. `queues` holds the six default queues and those of the file."""

    source: str  #: the file's name, for messages
    models: Mapping[str, Model]
    services: Mapping[str, Service]
    queues: Mapping[str, QueueSpec]

    def models_for(self, service: Service, tier: Tier) -> tuple[Model, ...]:
        """The service's models for `tier`, default first; empty when the service is not offered to that tier."""
        return tuple(self.models[name] for name in service.models.get(tier, ()))

    @property
    def templates(self) -> frozenset[str]:
        """The templates in Postgres that services name."""
        return frozenset(s.template for s in self.services.values() if s.template is not None)

    def unknown_templates(self, known: Collection[str]) -> list[str]:
        """One line for each service whose template is not among `known` (refs with and without version).

        Asked at start, when the store can be read; a non-empty answer refuses the start like any other mistake.
        """
        return [
            f"{self.source}: [services.{s.id}] template: {s.template!r} is not in prompt_templates"
            f"{nearest(s.template, known)}; known: {', '.join(sorted(known)) or 'none'}"
            for s in self.services.values()
            if s.template is not None and s.template not in known
        ]


def cost(model: Model, usage: Usage, at: float) -> Usage:
    """`usage` of a call that ended at `at` (unix s) with `cost_usd` filled in; None where that is unknown."""
    return priced(usage, price_at(model.prices, model.off_peak, at))
