"""May this message run here and now? Pure: the relay's dry run asks it, and so does every attempt.

What a message may look like at all was judged by `contracts.parse_message`; this step holds it against the queue it
came in, the services file and the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.domain.errors import Code, Rejected
from daemon.domain.messages import TaskMessage
from daemon.domain.queues import QueueSpec, Tier
from daemon.services import Model, Service, ServiceCatalog
from daemon.services.catalog import TEMPLATE_PATTERN, is_template_ref, nearest


@dataclass(frozen=True, slots=True)
class Validated:
    """A message that may run. `models` are the service's for this tier, default first, never empty."""

    message: TaskMessage
    queue: QueueSpec
    service: Service
    models: tuple[Model, ...]

    @property
    def tier(self) -> Tier:
        """The queue's; a message that names one agrees."""
        return self.queue.tier


def validate(message: TaskMessage, queue_id: str, catalog: ServiceCatalog, now: float) -> Validated:
    """The message with its queue, service and models. `queue_id`: the queue it lies in. `now`: unix seconds.

    Raises `Rejected` (INVALID_PAYLOAD, UNKNOWN_SERVICE, IMAGE_REJECTED or EXPIRED) that names the field, its value and
    what is allowed. Expiry is judged last, so that a dry run of an old message still learns of its mistakes.
    """
    queue = catalog.queues.get(queue_id)
    if queue is None:
        raise _refuse("queueId", queue_id, list(catalog.queues))
    if message.queue_id != queue_id:
        raise _refuse("queueId", message.queue_id, [queue_id])
    if message.tier is not None and message.tier is not queue.tier:
        raise Rejected(f'tier: "{message.tier}" does not agree with {queue.name}, which is for "{queue.tier}"')
    service = catalog.services.get(message.service_id)
    if service is None:
        raise _refuse("serviceId", message.service_id, list(catalog.services), Code.UNKNOWN_SERVICE)
    models = _models(message, service, catalog, queue.tier)
    if message.template_id is not None and not is_template_ref(message.template_id):
        raise Rejected(f"templateId: must be name or name@version ({TEMPLATE_PATTERN})")
    check_images(len(message.images or ()), service)
    if message.expires_at is not None and now > message.expires_at:
        raise Rejected(f"expired {now - message.expires_at:.0f} s before it could start", code=Code.EXPIRED)
    return Validated(message, queue, service, models)


def check_images(count: int, service: Service) -> None:
    """Raises `Rejected` (IMAGE_REJECTED) when there are images and the service takes none."""
    if count and not service.takes_images:
        raise Rejected(f'images: the service "{service.id}" takes no images', code=Code.IMAGE_REJECTED)


def _models(message: TaskMessage, service: Service, catalog: ServiceCatalog, tier: Tier) -> tuple[Model, ...]:
    models = catalog.models_for(service, tier)
    if not models:
        raise _refuse("tier", tier, list(service.models))
    if message.model_id is not None and message.model_id not in service.models[tier]:
        raise _refuse("modelId", message.model_id, list(service.models[tier]))
    return models


def _refuse(field: str, value: str, allowed: list[str], code: Code = Code.INVALID_PAYLOAD) -> Rejected:
    return Rejected(
        f'{field}: "{value[:80]}" is not allowed{nearest(value[:80], allowed)}; allowed: {", ".join(allowed)}',
        code=code,
    )
