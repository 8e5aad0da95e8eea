"""The rules that settings keep with each other, by their public names, each with its reason.

`config.load` refuses the start for every one that does not hold. Names nothing but variables, so that what an error
names is what somebody can change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from daemon.config.shown import Rule
from daemon.config.types import SecretStr

#: signing keys that the QStash development server shows to everybody: its default user, then its three test users
DEVELOPMENT_KEYS: Final = frozenset(
    {
        "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs",
        "sig_7GVPjvuwsfqF65iC8fSrs1dfYruM", "sig_5NoELc3EFnZn4DVS5bDs2Nk4b7Ua",
        "sig_6jWGaWRxHsw4vMSPJprXadyvrybF", "sig_7qHbvhmahe5GwfePDiS5Lg3pi6Qx",
        "sig_5T8FcSsynBjn9mMLBsXhpacRovJf", "sig_7GFR4YaDshFcqsxWRZpRB161jguD",
    }
)  # fmt: skip
TOKEN_SECRET_CHARS_MIN: Final = 32  #: HS256 is as strong as its key: 256 bits


def _development(environment: str) -> bool:
    return environment == "development"


def _plain(keys: Iterable[SecretStr]) -> set[str]:
    return {key.get_secret_value() for key in keys}


def _names_are_different(keys: Iterable[SecretStr]) -> bool:
    names = [key.get_secret_value().partition(":")[0] for key in keys]
    return len(names) == len(set(names))


def _all_given(store: str, *s3: object) -> bool:
    return store != "s3" or all(s3)


def _has_password(url: SecretStr) -> bool:
    parts = urlsplit(url.get_secret_value())
    return parts.scheme == "unix" or bool(parts.password) or "password=" in parts.query


RULES: Final = (
    Rule(("QSTREAMD_LEASE_S", "QSTREAMD_BEAT_S"), lambda lease, renew: lease >= 3 * renew,
         "a lease must last at least 3 beats, so that two lost beats lose no task"),
    Rule(("QSTREAMD_SELF_FENCE_S", "QSTREAMD_LEASE_S"), lambda fence, lease: fence < lease,
         "an attempt must stop itself before its lease ends and another may start"),
    Rule(("QSTREAMD_SELF_FENCE_S", "QSTREAMD_BEAT_S"), lambda fence, renew: fence > 2 * renew,
         "more than 2 beats must be lost before an attempt gives up a paid model call"),
    Rule(("QSTREAMD_LIVENESS_TTL_S", "QSTREAMD_LIVENESS_S"), lambda ttl, every: ttl >= 2 * every,
         "a sign of life must outlast 2 renewals, or a healthy consumer looks dead"),
    Rule(("QSTREAMD_DRAIN_S", "QSTREAMD_STOP_S"), lambda drain, stop: drain < stop,
         "the drain must end before systemd kills the process, with time left to requeue"),
    Rule(("QSTREAMD_REDIS_BLOCK_S", "QSTREAMD_STOP_S"), lambda block, stop: block * 1.5 + 5 < stop,
         "a blocked read may last one and a half times as long, and a stop must be able to wait for it"),
    *(Rule((f"QUEUE_PARALLELISM_{kind}", "QSTREAMD_REDIS_PENDING_MAX"),
           lambda slots, pending: slots is None or 2 * slots <= pending,
           "a read may bring twice what is free, and more than this may not be pending")
      for kind in ("PAID_STREAM", "FREE_STREAM", "PAID_BATCH", "FREE_BATCH", "PAID_VISION", "FREE_VISION")),
    Rule(("QSTREAMD_PROMISE_TTL_S", "QSTREAMD_SEEN_TTL_S"), lambda ttl, seen: ttl < seen,
         "an accepted id must stay known for longer than its reservation"),
    Rule(("QSTREAMD_BLOB_TTL_S", "QSTREAMD_GUARD_WAIT_MAX_S"), lambda blob, wait: blob > wait,
         "a task that waited its longest must still find its images"),
    Rule(("QSTREAMD_RETRY_BASE_S", "QSTREAMD_RETRY_CAP_S"), lambda base, cap: base <= cap,
         "the backoff can't begin above its cap"),
    Rule(("QSTREAMD_EVENTS_TTL_AFTER_END_S", "QSTREAMD_EVENTS_TTL_S"), lambda end, ttl: end <= ttl,
         "an ended stream can't outlive the longest life of any stream"),
    Rule(("QSTREAMD_POSTGRES_POOL_MIN", "QSTREAMD_POSTGRES_POOL_MAX"), lambda least, most: least <= most,
         "a pool can't keep more connections than it may open"),
    Rule(("BLOB_STORE", "S3_ENDPOINT_URL", "S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"), _all_given,
         "the s3 store needs all four S3_* settings"),
    Rule(("API_KEYS",), _names_are_different, "two keys have the same name; logs could not tell who called"),
    Rule(("QSTASH_SKIP_VERIFY", "NODE_ENV"), lambda skip, env: not skip or _development(env),
         "anybody could start paid work; allowed only with NODE_ENV=development"),
    Rule(("QSTREAMD_FAILPOINTS", "NODE_ENV"), lambda points, env: not points or _development(env),
         "the daemon would die on purpose; allowed only with NODE_ENV=development"),
    Rule(("QSTASH_CURRENT_SIGNING_KEY", "NODE_ENV"),
         lambda keys, env: _development(env) or not _plain(keys) & DEVELOPMENT_KEYS,
         "the QStash development server's keys are public; take yours from the QStash console"),
    Rule(("QSTASH_NEXT_SIGNING_KEY", "NODE_ENV"),
         lambda keys, env: _development(env) or not _plain(keys) & DEVELOPMENT_KEYS,
         "the QStash development server's keys are public; take yours from the QStash console"),
)  # fmt: skip  # a table
RELAY_NEEDS: Final = (
    Rule(("WORKER_BASE_URL",), bool, "the relay checks signatures against the public URL that QStash calls"),
    Rule(("QSTASH_CURRENT_SIGNING_KEY", "QSTASH_SKIP_VERIFY"), lambda keys, skip: keys or skip,
         "the relay can't tell QStash's calls from others; take the key from the QStash console"),
    Rule(("QSTASH_NEXT_SIGNING_KEY", "QSTASH_SKIP_VERIFY"), lambda keys, skip: keys or skip,
         "every call would fail when QStash rolls its keys; take the key from the QStash console"),
)  # fmt: skip
DAEMON_NEEDS: Final = (Rule(("DATABASE_URL",), bool, "the daemon keeps tasks and results in Postgres"),)
GATEWAY_NEEDS: Final = (
    Rule(("DATABASE_URL",), bool, "the gateway reads states and results in Postgres"),
    Rule(("TASK_TOKEN_SECRET",), bool, "browsers follow tasks with tokens that it signs: 32 random characters"),
    Rule(("QSTASH_TOKEN", "API_KEYS", "QSTREAMD_DIRECT_SUBMIT", "NODE_ENV"),
         lambda token, api_keys, direct, env: token or not api_keys or direct or _development(env),
         "submitted tasks are published to QStash; take the token from the QStash console"),
    Rule(("WORKER_BASE_URL", "API_KEYS", "QSTREAMD_DIRECT_SUBMIT", "NODE_ENV"),
         lambda url, api_keys, direct, env: url or not api_keys or direct or _development(env),
         "QStash is told to call the relay there"),
)  # fmt: skip
#: legal, but somebody should know
WARNINGS: Final = (
    Rule(("REDIS_URL", "NODE_ENV"), lambda url, env: _development(env) or _has_password(url),
         "a Redis without a password is open to everything that reaches its port"),
    Rule(("TASK_TOKEN_SECRET",), lambda key: key is None or len(key.get_secret_value()) >= TOKEN_SECRET_CHARS_MIN,
         f"shorter than {TOKEN_SECRET_CHARS_MIN} characters can be guessed from one token"),
    Rule(("NODE_ENV",), lambda env: not re.fullmatch("dev|develop|local", env),
         "counts as a production environment; only `development` is development"),
)  # fmt: skip
