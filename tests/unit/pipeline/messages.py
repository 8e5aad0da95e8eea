"""A services file of two services, and messages for it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from daemon.domain.messages import TaskMessage
from daemon.domain.queues import DEFAULT_QUEUES, Tier
from daemon.services import Model, Service, ServiceCatalog

PRO: Final = Model("pro", "deepseek", "deepseek-v4-pro", concurrency=MappingProxyType({Tier.PAID: 7}))
FLASH: Final = Model("flash", "deepseek", "deepseek-flash")
EYE: Final = Model("eye", "gemini", "gemini-flash-latest", takes_images=True)

REVIEW: Final = Service(
    id="review",
    title="Review",
    system="You coach {{ who | default('people') }}.",
    prompt="Review {{ resume }} for {{ role }}",
    template=None,
    models=MappingProxyType({Tier.PAID: ("pro", "flash", "eye"), Tier.FREE: ("flash",)}),
    takes_images=False,
    max_output_tokens=512,
    temperature=0.3,
    first_token_s=10,
    idle_s=20,
    total_s=30,
    attempts=4,
)
LOOK: Final = Service(
    id="look",
    title="Look",
    system="",
    prompt="Look{{ '' if note is undefined else ' at ' ~ note }}",
    template=None,
    models=MappingProxyType({Tier.PAID: ("eye",)}),
    takes_images=True,
    output="json",
    schema='{"type":"object"}',
)
BOOK: Final = ServiceCatalog(
    source="services.toml",
    models=MappingProxyType({m.id: m for m in (PRO, FLASH, EYE)}),
    services=MappingProxyType({s.id: s for s in (REVIEW, LOOK)}),
    queues=DEFAULT_QUEUES,
)


def message(**fields: Any) -> TaskMessage:
    """A good message for `review` on `q_paid_stream`, with `fields` over it."""
    given = {"task_id": "t1", "queue_id": "q_paid_stream", "service_id": "review", "user_id": "u1", **fields}
    return TaskMessage(**given)
