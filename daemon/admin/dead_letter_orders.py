"""What an operator orders for dead letters: run their tasks again, or forget them. Each order is audited.

Called by the command `dlq`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from daemon.admin.connections import Connections
from daemon.admin.orders import actor
from daemon.admin.replay import REPLAYABLE, replay
from daemon.queues.dead_letters import DeadLetter, DeadLetterFilter, DeadLetters
from daemon.store.audit import AuditLog


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one letter."""

    task_id: str
    queue: str
    done: str  #: replayed, dropped, refused; would replay, would drop
    text: str = ""


async def read_letters(
    at: Connections, queues: Sequence[str], letter_filter: DeadLetterFilter, limit: int
) -> list[DeadLetter]:
    """Letters of these queues (none named: of all), newest first, at most `limit` of each."""
    letters = DeadLetters(at.redis, at.scripts)
    return [letter for q in queues or at.catalog.queues for letter in await letters.read(q, letter_filter, limit)]


async def replay_letters(at: Connections, found: Sequence[DeadLetter], reason: str, *, dry_run: bool) -> list[Fate]:
    """Run the tasks of these letters anew, the oldest first, as they came."""
    by_task: dict[str, list[DeadLetter]] = {}
    for letter in reversed(found):
        by_task.setdefault(letter.task_id or letter.id, []).append(letter)
    return [await _replay_one(at, letters, reason, dry_run=dry_run) for letters in by_task.values()]


async def _replay_one(at: Connections, letters: Sequence[DeadLetter], reason: str, *, dry_run: bool) -> Fate:
    task_id, queue = letters[-1].task_id, letters[-1].queue
    found = await at.records.row(task_id) if task_id else None
    if found is None:
        return Fate(task_id, queue, "refused", "no row: it could not be read, or it was deleted")
    row = found[0]
    if row.queue_id != queue or row.state not in REPLAYABLE:
        return Fate(
            task_id, queue, "refused", f"it is {row.state} in {row.queue_id}; only failed and expired start anew"
        )
    if dry_run:
        return Fate(task_id, queue, "would replay", f"{row.state} after {row.attempt} attempts")
    try:
        anew = await replay(at, row, actor(), reason or "dlq replay")
    except msgspec.ValidationError:
        return Fate(task_id, queue, "refused", "a newer release wrote its message")
    if anew is None:
        return Fate(task_id, queue, "refused", "somebody else replayed it just now")
    await DeadLetters(at.redis, at.scripts).drop(letters)
    return Fate(task_id, queue, "replayed", f"attempt {anew.attempt + 1} follows")


async def drop_letters(at: Connections, found: Sequence[DeadLetter], reason: str, *, dry_run: bool) -> list[Fate]:
    """Forget these letters; their tasks stay as they are."""
    if not dry_run and found:
        await DeadLetters(at.redis, at.scripts).drop(found)
        log = AuditLog(at.pool, at.clock)
        for letter in found:
            params = {"queue": letter.queue, "code": letter.code, "reason": reason}
            log.note("dlq.drop", letter.task_id, actor=actor(), role="operator", result="dropped", params=params)
        await log.flush()
    return [Fate(x.task_id, x.queue, "would drop" if dry_run else "dropped", x.code) for x in found]
