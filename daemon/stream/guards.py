"""Concurrency guards: leased places in zsets on server time, taken all or none, fenced by a random token.

They hold over all processes and heal by themselves: a holder that died is forgotten one lease later. They protect
providers and fairness, never correctness: that is the attempt's. One call is one flush.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.ports import GuardPlace
from daemon.stream.connection import Call, Scripts, load_script


class RedisGuards:
    """The `Guards` port."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._acquire = load_script("guard_acquire")
        self._renew = load_script("guard_renew")
        self._release = load_script("guard_release")

    async def acquire(self, member: str, places: Sequence[GuardPlace], lease_ms: int) -> int | None:
        """None when every place is ours for `lease_ms`, else the index of the first full guard; repeatable."""
        full = await self._scripts.one(
            self._acquire, [p.key for p in places], [member, lease_ms, *(p.limit for p in places)]
        )
        return None if full == 0 else int(full) - 1

    async def renew(self, held: Sequence[tuple[str, Sequence[GuardPlace]]], lease_ms: int) -> set[str]:
        """The members that lost a place; all others hold theirs for another `lease_ms`."""
        keys = [place.key for _, places in held for place in places]
        if not keys:
            return set()
        members = [member for member, places in held for _ in places]
        return {lost.decode() for lost in await self._scripts.one(self._renew, keys, [lease_ms, *members])}

    async def release(self, member: str, places: Sequence[GuardPlace]) -> None:
        """Give the places back; nothing happens to places of others. Repeatable."""
        await self._scripts.run([self.release_call(member, places)])

    def release_call(self, member: str, places: Sequence[GuardPlace]) -> Call:
        """The script call of a release, to be sent in a batch."""
        return Call(self._release, [p.key for p in places], [member])
