"""The state of the models over all processes: cooldown, breaker, adaptive limit, rates owed; and operators' orders.

Called for operators (`cli`), not on the path of a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.domain.queues import Tier
from daemon.redis_client import keys
from daemon.redis_client.connection import server_ms, translated
from daemon.redis_client.scripts import Scripts


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model over all processes; seconds from now."""

    model: str
    cooldown_reason: str  #: "" outside of a cooldown
    cooldown_s: float | None
    breaker: str  #: closed | open | probing
    breaker_s: float | None  #: until a probe may go, while it is open
    failures: int  #: in a row, while the breaker is closed
    running: dict[str, int]  #: by tier
    slowed_to: dict[str, int]  #: by tier; absent: its whole concurrency
    waiting: int  #: tasks that stand in line for it
    rpm_owed_s: float  #: until its requests so far are paid off
    tpm_owed_s: float


class ModelStates:
    """Looks at models, blocks and unblocks them."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def read(self, models: Sequence[str]) -> list[ModelState]:
        """One look in two flushes. Raises `RedisAway`."""
        now = await server_ms(self._scripts.client, keys.CONSUMERS)  # all that is read here lies beside it
        with translated():
            pipe = self._scripts.client.pipeline(transaction=False)
            for model in models:
                self._ask(pipe, model, now)
            replies: Any = await pipe.execute()
        size = len(replies) // len(models) if models else 0
        return [_state(model, replies[at * size : (at + 1) * size], now) for at, model in enumerate(models)]

    async def block(self, model: str, seconds: float, why: str) -> None:
        """No call begins for so long, in any process; running ones go on. Repeatable."""
        with translated():
            await self._scripts.client.set(keys.model_keys(model).cooldown, why, px=max(1, int(seconds * 1000)))

    async def unblock(self, model: str) -> None:
        """Forget why it was closed, broken or slowed down. Tasks that wait for a time come at that time. Repeatable."""
        names = keys.model_keys(model)
        with translated():
            paces = [keys.adaptive_limit(model, tier) for tier in Tier]
            await self._scripts.client.delete(names.cooldown, names.breaker, *paces)

    def _ask(self, pipe: Any, model: str, now: int) -> None:
        names = keys.model_keys(model)
        pipe.get(names.cooldown)
        pipe.pttl(names.cooldown)
        pipe.hgetall(names.breaker)
        pipe.get(names.rpm)
        pipe.get(names.tpm)
        for line in (names.paid_turns, names.free_turns, keys.waiters_of(names.probe)):
            pipe.zcard(line)
        for tier in Tier:
            permits = keys.model_permits(model, tier)
            pipe.zcount(permits, f"({now}", "+inf")
            pipe.zcard(keys.waiters_of(permits))
            pipe.hget(keys.adaptive_limit(model, tier), "limit")


def _state(model: str, replies: Sequence[Any], now: int) -> ModelState:
    closed, closed_ms, breaker, rpm, tpm, *lines = replies[:8]
    each = dict(zip(Tier, (replies[at : at + 3] for at in range(8, len(replies), 3)), strict=True))
    open_at = int(breaker.get(b"open_at", 0))
    return ModelState(
        model=model,
        cooldown_reason=closed.decode() if closed else "",
        cooldown_s=closed_ms / 1000 if closed else None,
        breaker="closed" if not open_at else "open" if open_at > now else "probing",
        breaker_s=(open_at - now) / 1000 if open_at > now else None,
        failures=len(breaker.get(b"times", b"").split()) if not open_at else 0,
        running={tier.value: running for tier, (running, _, _) in each.items()},
        slowed_to={tier.value: int(limit) for tier, (_, _, limit) in each.items() if limit},
        waiting=sum(lines) + sum(waiting for _, waiting, _ in each.values()),
        rpm_owed_s=max(0.0, (float(rpm or 0) - now) / 1000),
        tpm_owed_s=max(0.0, (float(tpm or 0) - now) / 1000),
    )
