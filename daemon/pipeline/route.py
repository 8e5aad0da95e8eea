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
    places: tuple[GuardPlace, ...]  #: for the first model; `places_for` gives those of a fallback
    limits: Limits
    attempts: int  #: failures allowed
    expires_at: float | None  #: unix s; not started after it
    user_id: str
    guards: GuardSettings

    @property
    def stream(self) -> bool:
        """Whether the user watches tokens."""
        return self.queue.mode is Mode.STREAM

    def places_for(self, model: Model) -> tuple[GuardPlace, ...]:
        """The guards a call of `model` passes."""
        return _places(self.user_id, model, self.queue.tier, self.guards)


def route(task: Validated, guards: GuardSettings) -> Plan:
    """The plan for one attempt. Never fails: what could be wrong was refused by `validate`."""
    message, service = task.message, task.service
    models = _ordered(task.models, message.model_id)
    return Plan(
        service=service,
        queue=task.queue,
        models=models,
        places=_places(message.user_id, models[0], task.tier, guards),
        limits=Limits(service.first_token_s, service.idle_s, service.total_s),
        attempts=min(service.attempts, message.max_attempts or service.attempts),
        expires_at=message.expires_at,
        user_id=message.user_id,
        guards=guards,
    )


def _ordered(models: tuple[Model, ...], asked: str | None) -> tuple[Model, ...]:
    """The model that was asked for goes first; the others stay its fallbacks, in the file's order."""
    return tuple(sorted(models, key=lambda model: model.id != asked)) if asked is not None else models


def _places(user_id: str, model: Model, tier: Tier, guards: GuardSettings) -> tuple[GuardPlace, ...]:
    # The user's guard first: who is over the own limit waits there, and never at the head of everybody's model.
    paid = tier is Tier.PAID
    return (
        GuardPlace(keys.guard_user(user_id), guards.user_paid if paid else guards.user_free),
        GuardPlace(
            keys.guard_model(model.id, tier),
            model.concurrency.get(tier) or (guards.model_paid if paid else guards.model_free),
        ),
    )
