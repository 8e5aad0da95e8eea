"""What one row of the claim means."""

from __future__ import annotations

import pytest

from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.ports import AlreadyRunning, ClaimOutcome, Delivery, StillRunning
from daemon.store.task_rows import ClaimRequest, claim_answer

MESSAGE = TaskMessage(task_id="t", queue_id="q", service_id="s", user_id="u", variables={})
REQUEST = ClaimRequest(Delivery("q", "tasks", "1-0", WorkEntry(message=MESSAGE, sha256="x", accepted_at=0)), "m")


def seen(**old: object) -> dict[str, object]:
    """A row that was not taken, as the snapshot of the statement shows it."""
    return {
        "attempt": None, "old_state": "running", "old_queue": "q", "old_sha256": "x", "old_attempt": 1,
        "old_code": None, "old_entry": "tasks/9-0", "old_free": False, **old,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "answer"),
    [
        ({}, AlreadyRunning()),
        ({"old_state": None}, None),
        ({"old_free": True}, None),
        ({"old_entry": "tasks/1-0"}, StillRunning()),
        ({"old_entry": "tasks/1-0", "old_free": True}, None),
        ({"old_state": "queued"}, None),
        ({"old_state": "retrying"}, None),
    ],
)
def test_a_snapshot_that_does_not_explain_the_refusal_is_not_believed(
    old: dict[str, object], answer: ClaimOutcome | None
) -> None:
    """Another claim got through after it was taken: None, look again."""
    assert claim_answer(REQUEST, seen(**old)) == answer
