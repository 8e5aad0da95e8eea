"""Start an ended task anew. The only way out of `failed` and `expired`, and never taken twice for one run.

Events first: a row that is `queued` again is put back by any daemon's sweeper should we die here, and its events must
not refuse it then. The row decides who replays: of two at the same moment one gets it. Called by `orders` and the
command `dlq`.
"""

from __future__ import annotations

from daemon.admin.connections import Connections
from daemon.domain.messages import identity_of
from daemon.domain.states import State
from daemon.events.log import EventLog
from daemon.queues.dead_letters import DeadLetters
from daemon.queues.streams import WorkStreams
from daemon.store.records import TaskRow

REPLAYABLE = frozenset({State.FAILED, State.EXPIRED})


async def replay(at: Connections, row: TaskRow, actor: str, reason: str) -> TaskRow | None:
    """The row as it is now, its entry in `:ready` and `queued` in its events.

    None: it is in no state for that, or somebody else replayed it just now. Raises `msgspec.ValidationError` before
    anything was changed when a newer release wrote its message. Audited in the statement that changes the row.
    """
    if row.state not in REPLAYABLE:
        return None
    entry = row.entry()
    await DeadLetters(at.redis, at.scripts).begin_again(row.task_id)
    anew = await at.records.replay(row.task_id, actor, reason)
    if anew is None:
        return None
    work = WorkStreams(at.scripts, at.settings.queues, "admin")
    # First the events, then the entry: `queued` comes before `started` for whoever watches.
    await EventLog(at.scripts, at.settings.events, at.clock).queued(identity_of(entry.message))
    await work.restore(anew.queue_id, anew.entry(), round(at.settings.lease.compare_s * 2000))
    return anew
