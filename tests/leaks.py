"""What a test has left behind in Redis."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import redis

from tests.redis_clusters import plain_urls

#: keys that live as long as the system does (protocol 4), whatever they hold
ALLOWED = (
    "qstreamd:environment",
    "{bp:queue:*}:control",
    "{bp:queue:*}:dead",
    "{guard}:consumers",
    "{guard}:processes",
)

#: keys that stay but must be empty once nothing is under way
EMPTY = ("{bp:queue:*}:tasks", "{bp:queue:*}:ready", "{bp:queue:*}:waiting", "bp:queue:*")


class Leaks:
    """Looks for work that nobody finishes and keys that nothing will ever delete."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._allowed = list(ALLOWED)

    def allow(self, *patterns: str) -> None:
        """Keys that this test leaves on purpose."""
        self._allowed.extend(patterns)

    def find(self) -> list[str]:
        """One line for each key that should not be there."""
        return sorted(line for url in plain_urls(self._url) for line in self._of(url))

    def _of(self, url: str) -> list[str]:
        with redis.Redis.from_url(url, decode_responses=True) as client:
            return [line for key in client.scan_iter(count=1000) if (line := self._judge(client, key))]

    def _judge(self, client: Any, key: str) -> str | None:
        if any(matches(key, pattern) for pattern in self._allowed):
            return None
        if any(matches(key, pattern) for pattern in EMPTY):
            return _holds(client, key)
        return f"{key}: no end of life" if client.pttl(key) == -1 else None


def matches(key: str, pattern: str) -> bool:
    """Whether a glob names the key; braces are literal."""
    return fnmatchcase(key, pattern)


def _holds(client: Any, key: str) -> str | None:
    kind = client.type(key)
    if kind == "stream":
        pending = sum(int(group["pending"]) for group in client.xinfo_groups(key))
        size = int(client.xlen(key))
        return f"{key}: {size} entries, {pending} pending" if size or pending else None
    if kind == "zset":
        size = int(client.zcard(key))
        return f"{key}: {size} members" if size else None
    value = client.get(key)
    return f"{key}: {value}" if value not in (None, "0") else None
