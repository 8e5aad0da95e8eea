"""The scripts of the queues, each as a function of its name that builds its call.

Parameters are KEYS and ARGV in the order of the contract at the head of the script, which also says what each one means
and what the reply is (`tests/rules/test_lua.py` compares the two).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from daemon.redis_client.keys import CONSUMERS, GROUP, PROCESSES
from daemon.redis_client.scripts import Argument, Call, load_scripts

SCRIPTS: Final = load_scripts("queues")

#: An interval between two starts in which nobody waited says nothing of how fast the queue drains: it counts as this.
INTERVAL_MAX_MS: Final = 60_000
#: The mean interval before the first start.
INTERVAL_FIRST_MS: Final = 1000
#: Of the newest interval in the mean: the last twenty or so count.
NEWEST_WEIGHT: Final = 0.1
#: A queue that has started nothing for a day does not say how fast it drains.
PACE_TTL_S: Final = 86_400


def accept(
    *,
    tasks: str,
    seen: str,
    waiting: str,
    counter: str,
    control: str,
    pace: str,
    blobs: Sequence[str],
    task_id: str,
    sha256: str,
    entry: bytes,
    max_size: int,
    counted: bool,
    dry_run: bool,
    seen_ttl_s: int,
    blob_ttl_s: int,
    blob_bytes: Sequence[bytes],
) -> Call:
    """Accepts one task message, or says why not."""
    return Call(
        SCRIPTS["accept"],
        (tasks, seen, waiting, counter, control, pace, *blobs),
        (task_id, sha256, entry, max_size, int(counted), int(dry_run), seen_ttl_s, blob_ttl_s, *blob_bytes),
    )


def ack(
    *,
    stream: str,
    waiting: str,
    counter: str,
    blobs: Sequence[str],
    group: str = GROUP,
    entry_id: str,
    consumer: str,
    task_id: str,
    whole_task: bool,
) -> Call:
    """Settles an entry of ours: XACK and XDEL."""
    return Call(
        SCRIPTS["ack"],
        (stream, waiting, counter, *blobs),
        (group, entry_id, consumer, task_id, int(whole_task)),
    )


def begin(
    *,
    stream: str,
    waiting: str,
    counter: str,
    pace: str,
    group: str = GROUP,
    entry_id: str,
    consumer: str,
    task_id: str,
    interval_max_ms: int = INTERVAL_MAX_MS,
    interval_first_ms: int = INTERVAL_FIRST_MS,
    newest_weight: float = NEWEST_WEIGHT,
    pace_ttl_s: int = PACE_TTL_S,
) -> Call:
    """The task starts: its occupancy is released, once."""
    return Call(
        SCRIPTS["begin"],
        (stream, waiting, counter, pace),
        (group, entry_id, consumer, task_id, interval_max_ms, interval_first_ms, newest_weight, pace_ttl_s),
    )


def begin_again(*, stream: str, state: str) -> Call:
    """Empties the events of a task that has ended."""
    return Call(SCRIPTS["begin_again"], (stream, state), ())


def cancel_reservation(*, seen: str, waiting: str, counter: str, reservation: str, task_id: str) -> Call:
    """Releases the occupancy of a message that will never come."""
    return Call(SCRIPTS["cancel_reservation"], (seen, waiting, counter, reservation), (task_id,))


def dead_letter(
    *,
    stream: str,
    waiting: str,
    counter: str,
    dead: str,
    blobs: Sequence[str],
    group: str = GROUP,
    entry_id: str,
    consumer: str,
    task_id: str,
    whole_task: bool,
    keep_count: int,
    keep_ms: int,
    letter: Mapping[str, Argument],
) -> Call:
    """Settles an entry of ours and leaves a dead letter."""
    return Call(
        SCRIPTS["dead_letter"],
        (stream, waiting, counter, dead, *blobs),
        (
            *(group, entry_id, consumer, task_id, int(whole_task), keep_count, keep_ms),
            *(part for field in letter.items() for part in field),
        ),
    )


def delete_consumer(*, ready: str, tasks: str, group: str = GROUP, consumer: str) -> Call:
    """Deletes a consumer that has nothing pending."""
    return Call(SCRIPTS["delete_consumer"], (ready, tasks), (group, consumer))


def depths(*, ready: str, tasks: str, retry: str, dead: str, counter: str, control: str, group: str = GROUP) -> Call:
    """How much lies where in one queue."""
    return Call(SCRIPTS["depths"], (ready, tasks, retry, dead, counter, control), (group,))


def expire_reservations(*, waiting: str, counter: str, reservation_ttl_ms: int, seen_prefix: str, batch: int) -> Call:
    """Releases the occupancy of reservations whose message did not come in time."""
    return Call(SCRIPTS["expire_reservations"], (waiting, counter), (reservation_ttl_ms, seen_prefix, batch))


def fetch(*, ready: str, tasks: str, control: str, group: str = GROUP, consumer: str, count: int) -> Call:
    """Reads new entries, those of `:ready` first."""
    return Call(SCRIPTS["fetch"], (ready, tasks, control), (group, consumer, count))


def forget_consumers(
    *, consumers: str = CONSUMERS, processes: str = PROCESSES, only_lapsed: bool, members: Sequence[str]
) -> Call:
    """Drops liveness records, and the facts of owners that have none left."""
    return Call(SCRIPTS["forget_consumers"], (consumers, processes), (int(only_lapsed), *members))


def hasten(*, retry: str, held: str, ready: str, task_id: str) -> Call:
    """Makes one delayed task run now."""
    return Call(SCRIPTS["hasten"], (retry, held, ready), (task_id,))


def liveness(
    *,
    consumers: str = CONSUMERS,
    processes: str = PROCESSES,
    ttl_ms: int,
    owner: str,
    facts: str,
    members: Sequence[str],
) -> Call:
    """Says that we live and asks who else does."""
    return Call(SCRIPTS["liveness"], (consumers, processes), (ttl_ms, owner, facts, *members))


def promote(*, retry: str, held: str, ready: str, batch: int) -> Call:
    """Moves delayed tasks that are due to `:ready`."""
    return Call(SCRIPTS["promote"], (retry, held, ready), (batch,))


def purge(
    *,
    stream: str,
    retry: str,
    held: str,
    waiting: str,
    counter: str,
    blobs: Sequence[str],
    group: str = GROUP,
    entry_id: str,
    task_id: str,
) -> Call:
    """Takes one task that has ended out of its queue."""
    return Call(SCRIPTS["purge"], (stream, retry, held, waiting, counter, *blobs), (group, entry_id, task_id))


def reclaim(
    *,
    mark: str,
    ready: str,
    tasks: str,
    group: str = GROUP,
    consumer: str,
    lease_ms: int,
    count: int,
    ready_cursor: str,
    tasks_cursor: str,
    mark_ms: int,
) -> Call:
    """Takes over entries whose owner let its lease run out."""
    return Call(
        SCRIPTS["reclaim"],
        (mark, ready, tasks),
        (group, consumer, lease_ms, count, ready_cursor, tasks_cursor, mark_ms),
    )


def reconcile(*, counter: str, waiting: str, drift: str, mark: str, reservation_ttl_ms: int, mark_ms: int) -> Call:
    """Puts the counter of a queue right."""
    return Call(SCRIPTS["reconcile"], (counter, waiting, drift, mark), (reservation_ttl_ms, mark_ms))


def renew_leases(*, stream: str, group: str = GROUP, consumer: str, heir: str, entry_ids: Sequence[str]) -> Call:
    """Renews the leases of our pending entries of one stream, or hands them to another consumer."""
    return Call(SCRIPTS["renew_leases"], (stream,), (group, consumer, heir, *entry_ids))


def requeue(*, stream: str, ready: str, group: str = GROUP, entry_id: str, consumer: str) -> Call:
    """Moves an entry of ours to `:ready`."""
    return Call(SCRIPTS["requeue"], (stream, ready), (group, entry_id, consumer))


def rescue_stranded(*, stream: str, ready: str, group: str = GROUP, count: int) -> Call:
    """Moves entries that nobody will ever be handed to `:ready`."""
    return Call(SCRIPTS["rescue_stranded"], (stream, ready), (group, count))


def reserve(
    *,
    seen: str,
    waiting: str,
    counter: str,
    control: str,
    reservation: str,
    pace: str,
    task_id: str,
    sha256: str,
    max_size: int,
    record_ttl_ms: int,
    reservation_ttl_ms: int,
    seen_prefix: str,
    takes_occupancy: bool,
) -> Call:
    """Reserves occupancy of a queue for a task before its message is published."""
    return Call(
        SCRIPTS["reserve"],
        (seen, waiting, counter, control, reservation, pace),
        (task_id, sha256, max_size, record_ttl_ms, reservation_ttl_ms, seen_prefix, int(takes_occupancy)),
    )


def restore(*, retry: str, ready: str, mark: str, task_id: str, entry: bytes, mark_ms: int) -> Call:
    """Puts a task back that Redis has lost."""
    return Call(SCRIPTS["restore"], (retry, ready, mark), (task_id, entry, mark_ms))


def shared_depths(*, consumers: str = CONSUMERS, permits: Sequence[str], closed: Sequence[str]) -> Call:
    """Who lives, how many permits are in use, which models are closed."""
    return Call(SCRIPTS["shared_depths"], (consumers, *permits, *closed), (len(permits),))


def snooze(
    *,
    stream: str,
    retry: str,
    held: str,
    seen: str,
    woken: str,
    group: str = GROUP,
    entry_id: str,
    consumer: str,
    task_id: str,
    due_in_ms: int,
    entry: bytes,
    seen_ttl_s: int,
    wakeable: bool,
) -> Call:
    """Delays a task: moves an entry of ours to `:retry` and `:held`."""
    return Call(
        SCRIPTS["snooze"],
        (stream, retry, held, seen, woken),
        (group, entry_id, consumer, task_id, due_in_ms, entry, seen_ttl_s, int(wakeable)),
    )


def take_over(*, ready: str, tasks: str, group: str = GROUP, consumer: str, count: int, owners: Sequence[str]) -> Call:
    """Takes over entries of owners that are proved dead."""
    return Call(SCRIPTS["take_over"], (ready, tasks), (group, consumer, count, *owners))
