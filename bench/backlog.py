"""Our tasks put into a queue as the relay does it, many at a time."""

from __future__ import annotations

import asyncio

from daemon.config import QueueSettings, RedisSettings
from daemon.config.types import SecretStr
from daemon.domain import messages
from daemon.domain.clock import SystemClock
from daemon.queues.admission import Accepted, Admission
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.connection import connect

_ABREAST = 500


def body(number: int, queue: str, payload: int = 100, prefix: str = "t") -> dict[str, object]:
    """A task message; its user has no other."""
    return {
        "v": 1, "taskId": f"{prefix}{number}", "queueId": queue, "serviceId": "bench", "userId": f"u{prefix}{number}",
        "variables": {"text": str(number), "filler": "x" * payload},
    }  # fmt: skip


async def accept(redis_url: str, queue: str, count: int, payload: int = 100, prefix: str = "t") -> None:
    """`count` tasks accepted by the script that the relay uses."""
    client = connect(RedisSettings(url=SecretStr(redis_url)), name="bench")
    admission = Admission(BatchedScripts(client), QueueSettings(), SystemClock())
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            given = body(number, queue, payload, prefix)
            verdict = await admission.accept(
                messages.parse_message(given), messages.canonical_sha256(given), 10_000_000, {}
            )
            assert isinstance(verdict, Accepted), verdict

    await asyncio.gather(*(some() for _ in range(min(_ABREAST, count))))
    await client.aclose()
