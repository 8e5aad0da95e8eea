"""Every way to end badly, over real processes: its code, its state, its letter, and how often the model was asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.world import World

pytestmark = pytest.mark.timeout(120)

#: service, what the message adds, code of the end, state of the row, model calls
ENDS: list[tuple[str, dict[str, Any], str, str, int]] = [
    ("f-blocked", {}, "LLM_REFUSED", "failed", 1),
    ("f-blocked-mid", {}, "LLM_REFUSED", "failed", 1),
    ("f-cut", {}, "LLM_ERROR", "failed", 3),
    ("f-no-finish", {}, "LLM_ERROR", "failed", 3),
    ("f-empty", {}, "LLM_BAD_OUTPUT", "failed", 3),
    ("f-stall-first", {"maxAttempts": 1}, "LLM_TIMEOUT", "failed", 1),
    ("f-stall-mid", {"maxAttempts": 1}, "LLM_TIMEOUT", "failed", 1),
    ("brief", {"maxAttempts": 1, "variables": {"id": "brief", "tokens": 3000}}, "LLM_TIMEOUT", "failed", 1),
    ("f-echo-secret", {}, "LLM_REFUSED", "failed", 1),
    ("plain", {"expiresAt": 1}, "EXPIRED", "expired", 0),
    ("nowhere", {}, "UNKNOWN_SERVICE", "failed", 0),
    ("plain", {"modelId": "another"}, "INVALID_PAYLOAD", "failed", 0),
    ("plain", {"variables": None}, "CONTEXT_NOT_FOUND", "failed", 0),
]


async def test_each_code_is_told_once_and_leaves_a_letter(world: World) -> None:
    """All at once through one daemon; the checker finds nothing left behind."""
    await world.start_daemon()
    await world.publish("warm")  # the vendor's library is imported at the first call
    await world.ended("warm")
    for n, (service, more, *_) in enumerate(ENDS):
        await world.publish(f"t{n}", service, **more)
    seen: dict[str, object] = {}
    wanted: dict[str, object] = {}
    for n, (service, more, code, state, calls) in enumerate(ENDS):
        end = await world.ended(f"t{n}", within_s=30)
        row = await world.row(f"t{n}")
        name = f"{service} {sorted(more)}"
        seen[name] = (end.get("code"), end.get("retryable"), row["state"], row["error_code"], world.calls(f"t{n}"))
        wanted[name] = (code, False, state, code, calls)
    assert seen == wanted
    history = await world.check()
    assert not any(call.ended is None for task in history.tasks.values() for call in task.calls)
    letters = await world.redis.xrange("{bp:queue:q_paid_stream}:dead")
    assert len(letters) == len(ENDS)
    assert "sk-of-the-tests" not in str(letters) + world.daemons[0].words()
