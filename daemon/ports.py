"""What the pipeline needs of the world, as Protocols. Adapters implement them; `processes` picks the adapters.

Every method raises only errors of `domain.errors`: `RedisAway`, `RedisFull` or `StoreAway` when its server does not
answer, and what its docstring names. Every method may be cancelled: nothing is known then of its last command, and
every one may be repeated with the same arguments.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from daemon.domain.errors import Code, TaskError
from daemon.domain.events import Channel, Event, EventDraft, Usage
from daemon.domain.messages import TaskIdentity as TaskIdentity
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.domain.model_io import FinishReason, ModelRequest, Picture, Piece
from daemon.domain.permits import CallReport, Denied, Granted, PermitRequest
from daemon.domain.permits import Permit as Permit
from daemon.domain.states import State


@dataclass(frozen=True, slots=True)
class UnsupportedVersion:
    """An entry of a newer release: enough to defer it, unchanged, for a daemon that can read it."""

    task_id: str
    raw: bytes
    since_ms: int  #: unix ms when it was first deferred; 0: now


@dataclass(frozen=True, slots=True)
class Delivery:
    """One pending entry that is ours.

    `stream` is `tasks` or `ready`; `entry` is None when it can't be read (poison).
    """

    queue: str
    stream: str
    id: str
    entry: WorkEntry | None
    poison: str = ""  #: why `entry` is None; free of content
    unsupported: UnsupportedVersion | None = None  #: set when `poison` is only that a newer release wrote it
    redelivered: bool = False  #: it was pending before: reclaimed, or found again after a lost reply

    @property
    def entry_id(self) -> str:
        """As Postgres names it: `tasks/{id}` or `ready/{id}`."""
        return f"{self.stream}/{self.id}"


# --- the ledger (Postgres) --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """The attempt is ours. `context` is the row of `task_context` when the message is ID-first, else None."""

    attempt: int
    failures: int
    crashes: int
    context: TaskContext | None
    created_at: float
    #: ID-first, but there is no `context`: CONTEXT_NOT_FOUND, or STORE_ERROR when the view itself failed. Raise it in
    #: `load`.
    context_error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class TaskContext:
    """One row of the view `qstreamd.task_context`."""

    template_id: str | None
    variables: dict[str, Any]
    images: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class AlreadyRunning:
    """Another entry of this task is running it: ack this one, say nothing."""


@dataclass(frozen=True, slots=True)
class StillRunning:
    """Another owner runs the task by this very entry, and its heartbeat is fresh: leave the entry pending."""


@dataclass(frozen=True, slots=True)
class TaskIdConflict:
    """The task id was used for another body or queue: dead letter, no event."""

    why: str


@dataclass(frozen=True, slots=True)
class AlreadyEnded:
    """The task is terminal: repeat the tail (event, release, ack) without a model call."""

    state: State
    attempt: int
    error_code: Code | None
    result: StoredResult | None


ClaimOutcome = Claimed | AlreadyRunning | StillRunning | TaskIdConflict | AlreadyEnded


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A committed row of `results`."""

    id: int
    content_sha256: str
    data: Any  #: parsed JSON for json services, else None
    content: str
    model_id: str
    usage: Usage
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class ResultDraft:
    """What an attempt wants to commit."""

    content: str
    data: Any
    content_sha256: str
    model_id: str
    usage: Usage
    first_token_at: float | None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """How an attempt that did not finish leaves `running`: the new state, and what to count."""

    state: State  #: retrying, queued, failed, cancelled or expired
    code: Code | None
    outcome: str  #: for attempts.outcome: failed | deferred | handed_back | interrupted | cancelled | expired
    count_failure: bool = False
    usage: Usage | None = None
    model_id: str | None = None
    first_token_at: float | None = None


class Ledger(Protocol):
    """Postgres: hands out attempt numbers (the fence) and holds results."""

    async def claim(
        self, delivery: Delivery, owner: str, model_id: str, lease_s: float, dead_owners: Sequence[str] = ()
    ) -> ClaimOutcome:
        """Make or take the row in one statement; `attempt` rises by one when the answer is `Claimed`.

        A row that says `running` is taken if `owner` claimed it by this entry, if its heartbeat has lapsed, or if its
        owner is one of `dead_owners`; the last two count a crash.
        """

    async def raise_attempt(self, task_id: str, attempt: int, owner: str, to: int) -> bool:
        """Give our attempt, which has not begun, the number `to`. False: it is not ours (any more). Repeatable."""

    async def finish(self, task_id: str, attempt: int, owner: str, result: ResultDraft) -> StoredResult:
        """Commit `done` and the result by compare-and-set on (`task_id`, `attempt`, `owner`, `running`).

        One statement. Reads back when no row matched: our own earlier commit is returned as success. Raises `LeaseLost`
        when the attempt is not ours (any more) or the task ended otherwise.
        """

    async def transition(self, task_id: str, attempt: int, owner: str, change: Transition) -> bool:
        """Leave `running` by compare-and-set on `attempt` and `owner`. False: it is not ours any more. Repeatable."""

    async def end_unclaimed(self, entry: WorkEntry, state: State, code: Code, entry_id: str) -> bool:
        """Make the row of a task that ends without a claim (expired, rejected) terminal.

        False: it is running or ended.
        """

    async def task_id_conflict(self, queue: str, entry: WorkEntry) -> str:
        """Why the id of this entry is another task's; "" when it is its own, or nobody's."""

    async def release_claim(
        self, task_id: str, entry_id: str, owner: str, lease_s: float, dead_owners: Sequence[str] = ()
    ) -> bool:
        """Before a redelivered entry moves: a row that still says `running` by it becomes `queued`, crash counted.

        False: by the rule of `claim` it may not be taken; the entry stays where it is.
        """

    async def heartbeat(self, attempts: Sequence[tuple[str, int]], owner: str) -> set[str]:
        """Renew `heartbeat_at` of all in one statement; the task ids whose attempt is no longer ours come back."""


# --- concurrency limiter (Redis) --------------------------------------------------------------------------------


class ConcurrencyLimiter(Protocol):
    """Leased permits on server time, all or none."""

    async def acquire(self, ask: PermitRequest, lease_ms: int) -> Granted | Denied:
        """All shared permits and that of the first available candidate, or none. Repeatable with the same member."""

    async def switch_model(
        self, ask: PermitRequest, lease_ms: int, left: Sequence[Permit], report: CallReport
    ) -> Granted | Denied:
        """Release the permits of one model with `report`, acquire another one's; the shared ones are kept."""

    async def retake(self, token: str, permits: Sequence[Permit], lease_ms: int) -> None:
        """All permits are ours for `lease_ms`, whatever the limits: for an attempt that runs and has lost them."""

    async def renew(self, held: Sequence[tuple[str, Sequence[Permit]]], lease_ms: int) -> set[str]:
        """Renew the permits of many tokens in one script; the tokens that lost one come back."""

    async def release(self, token: str, permits: Sequence[Permit], report: CallReport | None = None) -> None:
        """Release the permits, report of the model, and wake whoever is next; repeatable."""


# --- events and work (Redis) ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Appended:
    """What the append script answered.

    `accepted` False: another owner, a higher attempt or the end came before; `ended` says which.
    """

    accepted: bool
    ended: bool
    cancel: bool  #: a cancel was asked for
    overtaken: bool = False  #: something was appended after the event that was said to be the last
    attempt: int = field(default=0, compare=False)  #: the highest that the stream has seen


class Settlement(Protocol):
    """Settles a delivery in the completion order; each step is one flush, owner-checked and repeatable."""

    async def begin(self, d: Delivery, task: TaskIdentity, attempt: int, draft: EventDraft) -> tuple[bool, Appended]:
        """Release the queue slot and append `started`; the bool says whether the entry is still pending to us."""

    async def append(self, task: TaskIdentity, attempt: int, drafts: Sequence[EventDraft]) -> Appended:
        """Append events of one attempt in order, under one nonce."""

    async def append_and_release(
        self,
        task: TaskIdentity,
        attempt: int,
        drafts: Sequence[EventDraft],
        token: str,
        permits: Sequence[Permit],
        report: CallReport | None = None,
        after: int | None = None,
    ) -> Appended:
        """The last events and the release of the permits in one flush; waking those who waited takes another.

        `after`: the events only if the attempt's last one is still that with this `seq`, whoever ran it.
        """

    async def ending(self, task: TaskIdentity) -> tuple[Event, str] | None:
        """The terminal event that viewers were told and the text of its attempt; None: there is none (any more)."""

    async def streamed_text(self, task: TaskIdentity, attempt: int) -> tuple[str, int]:
        """The text that viewers of this attempt have so far, and the `seq` of its last event."""

    async def ack(self, d: Delivery, *, whole_task: bool = True) -> bool:
        """XACK + XDEL if the entry is ours; `whole_task` also gives back the place and drops its blobs."""

    async def snooze(
        self, d: Delivery, due_in_ms: int, *, reason: str, waiting_since_ms: int = 0, wakeable: bool = False
    ) -> bool:
        """Move the entry to `:retry` and `:held`, due in so many ms of server time.

        `waiting_since_ms` (unix) is kept with it while it waits; 0 for a retry. `wakeable`: it waits to be called by a
        guard, and does not sleep if that has happened already.
        """

    async def defer_unread(self, d: Delivery, unsupported: UnsupportedVersion, due_in_ms: int) -> bool:
        """Move an entry of a newer release to `:retry`, unread but for when this wait began."""

    async def requeue(self, d: Delivery) -> bool:
        """Move the entry to `:ready` now."""

    async def dead_letter(
        self, d: Delivery, *, code: Code, reason: str, attempts: int, whole_task: bool = True
    ) -> bool:
        """Ack the entry and leave a dead letter without content; `whole_task` as in `ack`."""


# --- templates (Postgres) ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Template:
    """One row of `prompt_templates`: Jinja sources. `system` None: the service's own system text stands."""

    ref: str  #: name@version, as found; for logs and the attempt's record
    prompt: str
    system: str | None = None


class Templates(Protocol):
    """Prompt templates kept in Postgres; cached by the adapter for a short time."""

    async def get(self, ref: str) -> Template:
        """`name@version`, or the newest version of `name`.

        Raises `Rejected` with INVALID_PAYLOAD when there is none.
        """


class DeltaWriter(Protocol):
    """The deltas of one attempt on their way to the viewer.

    Coalesced, in order, never more than 20 batches a second.
    """

    def push(self, channel: Channel, text: str) -> None:
        """Take a delta; never waits.

        What the writer learns (refused, cancelled) reaches the attempt by its callback.
        """

    async def flush(self) -> None:
        """Send now what there is, before the result is committed; gives up quietly when Redis does not answer."""

    async def close(self) -> list[EventDraft]:
        """Wait for the batch under way, and hand over what was not sent, to be appended with the last event."""

    def abandon(self) -> None:
        """Send nothing more: the attempt is not ours any more."""


class Deltas(Protocol):
    """Opens delta writers; those of all attempts of a process share their flushes."""

    def open(self, task: TaskIdentity, attempt: int, on_answer: Callable[[Appended], None]) -> DeltaWriter:
        """A writer for one attempt; `on_answer` gets an answer that refuses the attempt or asks to cancel it."""


# --- models and images ------------------------------------------------------------------------------------------


class Provider(Protocol):
    """One vendor's API."""

    async def prepare(self) -> None:
        """Load what the first call needs, off the loop; returns at once when that is done. No clock runs yet."""

    def generate(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """Deltas, then exactly one `Finished`.

        An async generator: close it (`aclosing`) and the socket is closed at once.

        Raises `ModelUnavailable`, `ProviderError` (LLM_ERROR, LLM_REFUSED, LLM_TIMEOUT, LLM_BAD_OUTPUT), nothing else.
        Has no timeout but for connecting: the caller's three timeouts cancel it. Keep-alives and role chunks yield
        nothing. With `stream=False` it makes one plain call and yields the text as one Delta. Never retries.
        """

    async def aclose(self) -> None:
        """Close the connection pool; may be called twice."""


class Blobs(Protocol):
    """Where image bytes lie."""

    async def read(self, reference: str, user_id: str) -> Picture:
        """The bytes, type judged again.

        Raises `Rejected` with IMAGE_NOT_FOUND (also for what belongs to another user) or IMAGE_REJECTED, and
        `TaskError` with STORE_ERROR when the store does not answer.
        """

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        """The task is over: remove what of these is ours to remove and is still there.

        Raises `DependencyAway`; what is left then, a sweep finds.
        """


class Staging(Protocol):
    """Where inline images are laid down before their task is accepted, when that is not Redis itself."""

    async def stage(self, message: TaskMessage, pictures: Mapping[int, Picture]) -> dict[int, str]:
        """A reference for each picture, durable. Raises `DependencyAway`, and then keeps none."""

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        """The task was not accepted: as in `Blobs`."""


class Clock(Protocol):
    """Time, injected so that tests own it."""

    def time(self) -> float:
        """Unix seconds, to store."""

    def monotonic(self) -> float:
        """Seconds that never go back, to subtract. Counts suspended time where the system can."""
