"""Sets of defaults for kinds of servers, by the settings' public names. A variable that is given always wins."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

#: for servers that bill by the command: what waits asks rarely, what runs tells rarely. Death is noticed later.
_METERED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "QSTREAMD_REDIS_BLOCK_S": 120.0,
        "QSTREAMD_REDIS_PENDING_MAX": 900,
        "QSTREAMD_LEASE_S": 60.0,
        "QSTREAMD_BEAT_S": 15.0,
        "QSTREAMD_SELF_FENCE_S": 45.0,
        "QSTREAMD_LIVENESS_S": 20.0,
        "QSTREAMD_LIVENESS_TTL_S": 45.0,
        "QSTREAMD_SWEEP_S": 1800.0,
        "QSTREAMD_COMPARE_S": 300.0,
        "QSTREAMD_RECONCILE_S": 60.0,
        "QSTREAMD_GUARD_SWEEP_S": 10.0,
        "QSTREAMD_GUARD_RETRY_S": 120.0,
        "QSTREAMD_DEPTHS_S": 60.0,
        "QSTREAMD_EVENTS_FLUSH_MS": 250,
        "QSTREAMD_EVENTS_FLUSH_BYTES": 4096,
    }
)
PROFILES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"standard": {}, "metered": _METERED})
