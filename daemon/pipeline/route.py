"""Where an attempt goes: which models in which order, through which guards, within which limits. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from daemon import keys
from daemon.config import GuardSettings
from daemon.contracts import Mode, QueueSpec, Tier
from daemon.pipeline.clocks import Limits
from daemon.pipeline.validate import Validated
from daemon.ports import GuardPlace
from daemon.services import Model, Service


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before the first place is taken; the same for every attempt with the same services file."""

    service: Service
    queue: QueueSpec
    models: tuple[Model, ...]  #: the one to call first, then its fallbacks
    places: tuple[GuardPlace, ...]  #: for the first model, all or none
    limits: Limits
    attempts_max: int  #: failures allowed
    expires_at: float | None  #: unix s; not started after it

    @property
    def model(self) -> Model:
        """The one to call first."""
        return self.models[0]

    @property
    def stream(self) -> bool:
        """Whether the user watches tokens."""
        return self.queue.mode is Mode.STREAM


def route(task: Validated, guards: GuardSettings) -> Plan:
    """The plan for one attempt. Never fails: what could be wrong was refused by `validate`."""
    message, service = task.message, task.service
    models = _ordered(task.models, message.model_id)
    return Plan(
        service=service,
        queue=task.queue,
        models=models,
        places=places_of(message.user_id, models[0], task.tier, guards),
        limits=Limits(service.first_token_s, service.idle_s, service.total_s),
        attempts_max=min(service.attempts, message.max_attempts or service.attempts),
        expires_at=message.expires_at,
    )


def _ordered(models: tuple[Model, ...], asked: str | None) -> tuple[Model, ...]:
    """The model that was asked for goes first; the others stay its fallbacks, in the file's order."""
    return tuple(sorted(models, key=lambda model: model.id != asked)) if asked is not None else models


def places_of(user_id: str, model: Model, tier: Tier, guards: GuardSettings) -> tuple[GuardPlace, ...]:
    """The guards that a call of `model` for this user passes, with their limits over all processes."""
    # The user's guard first: who is over the own limit waits there, and never at the head of everybody's model.
    paid = tier is Tier.PAID
    return (
        GuardPlace(keys.guard_user(user_id), guards.user_paid if paid else guards.user_free),
        GuardPlace(
            keys.guard_model(model.id, tier),
            model.concurrency.get(tier) or (guards.model_paid if paid else guards.model_free),
        ),
    )
