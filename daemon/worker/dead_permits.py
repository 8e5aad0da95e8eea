"""Frees what dead owners hold of the limiters, so that their tasks find room when they run again.

An owner holds permits only for tasks whose entries are pending to it, so the tasks that were taken over name every
limiter. One that the services file does not name any more keeps its permits until their lease ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from daemon.domain.errors import RedisAway, RedisFull, Rejected
from daemon.domain.permits import Permit, nonce_of
from daemon.limiter.permits import RedisLimiter
from daemon.observability.logging import logger
from daemon.pipeline.dependencies import Dependencies
from daemon.pipeline.route import route
from daemon.pipeline.validate import validate
from daemon.ports import Delivery
from daemon.redis_client import keys

_log = logger(__name__)


class DeadPermits:
    """The permits of owners that are proved dead."""

    def __init__(self, limiter: RedisLimiter, deps: Dependencies) -> None:
        self._limiter = limiter
        self._deps = deps

    async def free(self, owners: Iterable[str], deliveries: Sequence[Delivery]) -> None:
        """Free what these owners hold of the limiters of these tasks, which were theirs; in one script.

        What was held for one of the tasks is reserved for it. Repeatable; without an answer their leases decide.
        """
        permits = {permit.key: permit for d in deliveries for permit in self._permits(d)}
        taken = [f"{d.queue}/{d.entry.message.task_id}" for d in deliveries if d.entry is not None]
        try:
            await self._limiter.reassign(list(permits.values()), [nonce_of(owner) for owner in owners], taken)
        except (RedisAway, RedisFull) as error:
            _log.warning("permits.release_failed", error=type(error).__name__, tasks=len(taken))

    def _permits(self, d: Delivery) -> Iterator[Permit]:
        if d.entry is None:
            return
        deps = self._deps
        try:
            valid = validate(d.entry.message, d.queue, deps.catalog(), 0.0)  # one that has expired held permits as well
        except Rejected:
            return
        plan = route(valid, deps.limiter_settings, deps.queue_limit(d.queue))
        yield from plan.shared
        for candidate in plan.candidates:
            yield candidate.permit
            yield Permit(keys.model_keys(candidate.model_id).probe, 1)
