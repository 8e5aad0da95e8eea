"""Where an attempt goes: which models in which order, through which limiters, within which limits. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from daemon.config import GuardSettings
from daemon.domain.messages import TaskMessage
from daemon.domain.permits import Candidate, Permit
from daemon.domain.queues import Mode, QueueSpec, Tier
from daemon.pipeline.timeouts import Timeouts
from daemon.pipeline.validate import Validated
from daemon.redis_client import keys
from daemon.services import Model, Service
from daemon.services.limits_in_force import limit_of, queue_limit_of, user_limit_of

OUTPUT_TOKENS: Final = 1024  #: expected of a service that names no `max_output_tokens`
IMAGE_TOKENS: Final = 1000  #: of one picture, about what vendors count


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before the first place is taken; the same for every attempt with the same services file."""

    service: Service
    queue: QueueSpec
    models: tuple[Model, ...]  #: the one to call first, then its fallbacks
    shared: tuple[Permit, ...]  #: the limiters to pass whatever model is called
    candidates: tuple[Candidate, ...]  #: the models as the limiters see them, in the same order
    timeouts: Timeouts
    attempts_max: int  #: failures allowed
    expires_at: float | None  #: unix s; not started after it

    @property
    def model(self) -> Model:
        """The one to call first."""
        return self.models[0]

    @property
    def permits(self) -> tuple[Permit, ...]:
        """All limiters on the way to the first model."""
        return (*self.shared, self.candidates[0].permit)

    @property
    def stream(self) -> bool:
        """Whether the user watches tokens."""
        return self.queue.mode is Mode.STREAM


def route(
    task: Validated, settings: GuardSettings, queue_limit: int | None = None, cut_models: Sequence[str] = ()
) -> Plan:
    """The plan for one attempt. Never fails: what could be wrong was refused by `validate`.

    `queue_limit`: attempts of this queue at once over all processes; None: no such limit. `cut_models` are left out,
    unless none is left: their limits cut the answer in an earlier attempt.
    """
    message, service = task.message, task.service
    models = _ordered(tuple(m for m in task.models if m.id not in cut_models) or task.models, message.model_id)
    tokens = expected_tokens(message, service)
    return Plan(
        service=service,
        queue=task.queue,
        models=models,
        shared=shared_permits(message.user_id, task.queue, settings, queue_limit),
        candidates=tuple(candidate(model, task.tier, settings, tokens) for model in models),
        timeouts=Timeouts(service.first_token_s, service.idle_s, service.total_s),
        attempts_max=min(service.attempts, message.max_attempts or service.attempts),
        expires_at=message.expires_at,
    )


def _ordered(models: tuple[Model, ...], asked: str | None) -> tuple[Model, ...]:
    """The model that was asked for goes first; the others stay its fallbacks, in the file's order."""
    return tuple(sorted(models, key=lambda model: model.id != asked)) if asked is not None else models


def shared_permits(
    user_id: str, queue: QueueSpec, settings: GuardSettings, queue_limit: int | None
) -> tuple[Permit, ...]:
    """The limiters that every call for this user passes, with their limits over all processes."""
    # The user's first: who is over the own limit waits there, and never at the head of everybody's model.
    user = Permit(keys.user_permits(user_id), user_limit_of(queue.tier, settings))
    # Taken without a limit too: one that is set later counts what runs then.
    return user, Permit(keys.queue_permits(queue.name), queue_limit_of(queue_limit))


def candidate(model: Model, tier: Tier, settings: GuardSettings, tokens: int) -> Candidate:
    """The model as the limiter sees it: its permits in this tier, and its rates over all tiers."""
    permit = Permit(keys.model_permits(model.id, tier), limit_of(model, tier, settings))
    return Candidate(model.id, tier, permit, model.requests_per_minute, model.tokens_per_minute, tokens)


def expected_tokens(message: TaskMessage, service: Service) -> int:
    """What a call is charged before it is made, put right with its real usage afterwards.

    A third of the input's bytes (a Chinese character is about a token and three bytes) and the most it may answer.
    """
    given = repr(message.variables).encode() if message.variables else b""  # repr spells what UTF-8 cannot
    source = len((service.prompt or "").encode()) + len(service.system.encode()) + len(given)
    return source // 3 + IMAGE_TOKENS * len(message.images or ()) + (service.max_output_tokens or OUTPUT_TOKENS)
