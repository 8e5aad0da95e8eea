"""The register of every Redis key (protocol 4). No other module spells one.

All braces are literal hash tags: what one script changes shares a hash slot of Redis Cluster. All of queue Q is in that
of the bare counter `bp:queue:Q`; all limiters share `{guard}`; a task's events have a hash slot of their own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

GROUP: Final = "daemon"  #: the consumer group on every work stream
#: string: the `NODE_ENV` that owns this Redis; a process of another one refuses to start
ENVIRONMENT: Final = "qstreamd:environment"

#: zset `Q/consumer` -> expiry (server ms): who reads which queue. A lapsed record stays until nothing of it is pending.
CONSUMERS: Final = "{guard}:consumers"
#: hash: consumer -> boot id, namespaces, pid and start time of its process, by which another one on the same host can
#: prove that it has died; removed with its last record in `{guard}:consumers`
PROCESSES: Final = "{guard}:processes"
#: zset `Q/taskId` -> until when (server ms): waiters that were called, and a place is kept for
NOTIFIED: Final = "{guard}:called"
#: hash: limiters that somebody may wait for -> their limit; what the shared sweep looks at
LIMITERS_WITH_WAITERS: Final = "{guard}:waits"
#: string with a short life: somebody sweeps the waiters
PERMIT_SWEEP: Final = "{guard}:sweep"
#: string with a short life: where that sweep goes on
PERMIT_SWEEP_CURSOR: Final = "{guard}:sweep:cursor"
#: never written: what a blocking read waits on when a server is asked whether it blocks
BLOCK_PROBE: Final = "{guard}:block_probe"
#: pub/sub channel: the name of a queue whose `control` has changed
CONTROL_CHANNEL: Final = "qstreamd:control"


#: stream, bounded, with an end of life: ids of tasks that somebody asked to cancel; read by daemons while they run any
CANCELS: Final = "{guard}:cancels"


class QueueKeys(NamedTuple):
    """The keys of one queue."""

    counter: str  #: integer: tasks promised or accepted that have not started yet
    waiting: str  #: zset: their ids; score = place taken at (ms)
    tasks: str  #: stream: accepted work
    ready: str  #: stream: woken, retried and requeued work, served first
    retry: str  #: zset: taskId, score due (ms)
    held: str  #: hash: taskId -> its entry while in `retry`
    dead: str  #: stream: dead letters
    control: str  #: hash: paused, parallelism, maxSize, who, why
    reclaim_mark: str  #: string with a short life: somebody is sweeping this queue
    rescue_mark: str  #: string with a short life: somebody compares this queue with Postgres
    start_interval: str  #: hash: when a task last started (ms) and the mean interval: what a refused producer is told
    drift: str  #: hash: the smallest surplus of the counter over `waiting` since when


@lru_cache(maxsize=1024)
def queue_keys(queue: str) -> QueueKeys:
    """All keys of `queue`; cached, since every command needs them."""
    tag = f"{{bp:queue:{queue}}}"
    names = ("waiting", "tasks", "ready", "retry", "held", "dead", "control", "sweep", "upkeep", "pace", "drift")
    return QueueKeys(f"bp:queue:{queue}", *(f"{tag}:{n}" for n in names))


def dedup(queue: str, task_id: str) -> str:
    """String `entryId:sha256`, 7 days: the accepted message of this id, for duplicates."""
    return f"{{bp:queue:{queue}}}:seen:{task_id}"


def reservation(queue: str, task_id: str) -> str:
    """String, as long as a promise: the SHA-256 of the body that a producer promised, to tell another one apart."""
    return f"{{bp:queue:{queue}}}:promise:{task_id}"


def reconciling(queue: str) -> str:
    """String with a short life: somebody has just held the counter against the set."""
    return f"{{bp:queue:{queue}}}:reconciling"


def restored(queue: str, task_id: str) -> str:
    """String with a short life: the sweeper has just put this task back."""
    return f"{{bp:queue:{queue}}}:restored:{task_id}"


def woken(queue: str, task_id: str) -> str:
    """String with a short life: this task was notified before it was delayed, so it must not sleep."""
    return f"{{bp:queue:{queue}}}:woken:{task_id}"


def blob(queue: str, task_id: str, index: int) -> str:
    """String: the bytes of one inline image, with an end of life; gone when the task is over."""
    return f"{{bp:queue:{queue}}}:blob:{task_id}:{index}"


def events(task_id: str) -> str:
    """Stream: the task's events."""
    return f"task:{task_id}:events"


def events_state(task_id: str) -> str:
    """Hash beside the events: attempt, owner, seq, op, ended, cancel, origin (of a row that may be lost)."""
    return f"{{task:{task_id}:events}}:state"


def model_permits(model_id: str, tier: str) -> str:
    """Zset of leases: attempts of this model and tier that run now."""
    return f"{{guard}}:model:{model_id}:{tier}"


def user_permits(user_id: str) -> str:
    """Zset of leases: attempts of this user that run now."""
    return f"{{guard}}:user:{user_id}"


def queue_permits(queue: str) -> str:
    """Zset of leases: attempts of this queue that run now, over all processes; only while a limit for it is set."""
    return f"{{guard}}:queue:{queue}"


class ModelKeys(NamedTuple):
    """What all processes know of one model."""

    probe: str  #: zset of leases with one place: the attempt that finds out whether an open breaker may close
    cooldown: str  #: string with an end of life: why the model is closed
    breaker: str  #: hash: times of the last failures; open_at, open_ms once it has opened
    rpm: str  #: string: when the requests taken so far are paid off (GCRA, server ms)
    tpm: str  #: the same for tokens
    paid_turns: str  #: zset `Q/taskId` -> whose turn is when (server ms) at the model's rates
    free_turns: str  #: the same for those who do not pay


@lru_cache(maxsize=1024)
def model_keys(model_id: str) -> ModelKeys:
    """What all processes know of `model_id`."""
    names = ("probe", "closed", "breaker", "rpm", "tpm", "line_paid", "line_free")
    return ModelKeys(*(f"{{guard}}:{name}:{model_id}" for name in names))


def adaptive_limit(model_id: str, tier: str) -> str:
    """Hash: how many attempts of this model and tier may run at once while it is in trouble."""
    return f"{{guard}}:pace:{model_id}:{tier}"


def waiters_of(guard: str) -> str:
    """Zset of waiters of a limiter, oldest acceptance first."""
    return "{guard}:wait:" + guard.removeprefix("{guard}:")
