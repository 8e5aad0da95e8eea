"""Why a task is where it is, when it will likely start, and how its life went, in English and Chinese.

Pure: facts in, words out. The first true line of `_VERDICTS` speaks, so their order is the order of causes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from daemon.admin.task_facts import LimiterUse, TaskFacts
from daemon.domain.errors import CODES, Code
from daemon.domain.states import TERMINAL, State

Language = Literal["en", "zh"]
LEASE_SLACK_S: Final = 2.0
MEAN_S: Final = 60.0  #: of a task, when nothing has ended lately


@dataclass(frozen=True, slots=True)
class Explanation:
    """`code` is for programs, the texts are for people; `starts_in_s` None: unknown, or it has started."""

    code: str
    en: str
    zh: str
    cure: str = ""  #: a command or a step, if somebody should do something
    starts_in_s: float | None = None
    guessed: bool = False  #: `starts_in_s` is worked out from how long tasks take

    def text(self, language: Language) -> str:
        """In that language."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a life. `seconds` of the last one grow while it lasts."""

    kind: str
    seconds: float
    attempt: int
    detail: str = ""  #: model, reason or code


def explain(facts: TaskFacts, lease_s: float) -> Explanation:
    """The first cause that holds."""
    for verdict in _VERDICTS:
        found = verdict(facts, lease_s)
        if found is not None:
            return found
    return Explanation(
        "UNKNOWN",
        "Redis and Postgres know its name but not where it is; it may be on its way between two places. Ask again.",
        "Redis 与 Postgres 有它的记录，但不知其所在；可能正在移动中，请稍后再问。",
    )


# --- verdicts, in order -------------------------------------------------------------------------------------------


def _ended(f: TaskFacts, _: float) -> Explanation | None:
    if f.row is None or f.row.state not in TERMINAL:
        return None
    state, code = f.row.state, f.row.error_code
    if state is State.DONE:
        return Explanation("DONE", f"It is done, on attempt {f.row.attempt}.", f"已完成（第 {f.row.attempt} 次尝试）。")
    info = CODES[code or Code.INTERNAL]
    cure = f"start it anew: tasks retry {f.task_id}" if state in {State.FAILED, State.EXPIRED} else ""
    return Explanation(
        state.value.upper(),
        f"It ended as {state} with {code}: {info.en} {f.row.failures} failures, {f.row.crashes} crashes.",
        f"已结束（{state}，{code}）：{info.zh}失败 {f.row.failures} 次，崩溃 {f.row.crashes} 次。",
        cure,
    )


def _running(f: TaskFacts, lease_s: float) -> Explanation | None:
    if f.pending is None or f.row is None or f.row.state is not State.RUNNING:
        return None
    silent_s = max(0.0, f.now - f.row.heartbeat_at)
    if f.pending.alive is False or silent_s > lease_s:
        left = max(0.0, lease_s - f.pending.idle_s)
        return Explanation(
            "OWNER_SILENT",
            f"Its process ({f.pending.consumer}) has been silent for {silent_s:.0f} s. Another one takes it over when"
            " the lease is over, if any lives.",
            f"处理它的进程（{f.pending.consumer}）已 {silent_s:.0f} 秒无响应；租约到期后由其他进程接手。",
            "" if f.queue and f.queue.consumers else _start(f),
            left + LEASE_SLACK_S,
        )
    asked = " Somebody asked to cancel it; its attempt will end at its next event." if f.cancel_asked else ""
    asked_zh = "已请求取消，将在下一个事件时结束。" if f.cancel_asked else ""
    return Explanation(
        "RUNNING",
        f"Attempt {f.row.attempt} runs on {f.pending.consumer} with {f.row.model_id}; last sign of life"
        f" {silent_s:.0f} s ago.{asked}",
        f"第 {f.row.attempt} 次尝试正在 {f.pending.consumer} 上运行（{f.row.model_id}），"
        f"{silent_s:.0f} 秒前有响应。{asked_zh}",
    )


def _in_hand(f: TaskFacts, lease_s: float) -> Explanation | None:
    if f.pending is None:
        return None
    if f.pending.alive is False or f.pending.idle_s > lease_s:
        return Explanation(
            "CLAIM_PENDING",
            f"{f.pending.consumer} read it {f.pending.idle_s:.0f} s ago and went silent; it is taken over within a"
            " lease, if any process lives.",
            f"{f.pending.consumer} 在 {f.pending.idle_s:.0f} 秒前读取后无响应；租约到期后由其他进程接手。",
            "" if f.queue and f.queue.consumers else _start(f),
            max(0.0, lease_s - f.pending.idle_s) + LEASE_SLACK_S,
        )
    return Explanation(
        "STARTING",
        f"{f.pending.consumer} read it {f.pending.idle_s:.1f} s ago and is about to start it.",
        f"{f.pending.consumer} 在 {f.pending.idle_s:.1f} 秒前读取，即将开始。",
        starts_in_s=0.0,
    )


def _paused(f: TaskFacts, _: float) -> Explanation | None:
    if f.queue is None or not f.queue.paused or not (f.in_stream or f.due_at):
        return None
    why = f" ({f.queue.paused_why})" if f.queue.paused_why else ""
    return Explanation(
        "QUEUE_PAUSED",
        f"{f.queue.name} is paused{why}.",
        f"队列 {f.queue.name} 已暂停{why}。",
        f"queues resume {f.queue.name}",
    )


def _nobody(f: TaskFacts, _: float) -> Explanation | None:
    if f.queue is None or f.queue.consumers or not (f.in_stream or f.due_at):
        return None
    return Explanation(
        "NO_CONSUMER", f"Nobody reads {f.queue.name}.", f"没有进程在读取队列 {f.queue.name}。", _start(f)
    )


def _delayed(f: TaskFacts, _: float) -> Explanation | None:
    if f.due_at is None:
        return None
    left = f.due_at - f.now
    when, when_zh = (f"in {left:.0f} s", f"{left:.0f} 秒后") if left > 0 else ("now", "即刻")
    words = {
        "GUARD_USER": ("other tasks of its user run", "该用户的其他任务正在运行"),
        "GUARD_MODEL": ("no place is free at its model", "模型暂无空位"),
        "RATE_LIMITED": ("the provider limits the rate of its model", "模型被限流"),
        "BREAKER_OPEN": ("its model has failed and is unavailable for a while", "模型故障，暂时不可用"),
        "QUEUE_PAUSED": ("the queue was paused", "队列已暂停"),
        "QUARANTINE": ("it was in two crashes, and all places in quarantine are taken", "经历两次崩溃，隔离位已满"),
    }
    if f.parked in words:
        en, zh = words[f.parked]
        limiter = _fill(f, {"GUARD_USER": "user", "GUARD_MODEL": "model"}.get(f.parked, ""))
        count, count_zh = _count(limiter)
        closed, closed_zh = _closed(f)
        since = f", since {f.now - f.parked_at:.0f} s" if f.parked_at else ""
        return Explanation(
            f.parked,
            f"It waits{since}: {en}{count}{closed}. It asks again {when} at the latest.",
            f"正在等待：{zh}{count_zh}{closed_zh}。最迟{when_zh}重试。",
            starts_in_s=max(0.0, left), guessed=True,
        )  # fmt: skip
    failures = f.row.failures if f.row else 0
    code = next((event.code for event in reversed(f.events) if event.code), "")
    return Explanation(
        "RETRY_AT",
        f"It failed {failures} times{f', last with {code}' if code else ''}; the next attempt is due {when}.",
        f"已失败 {failures} 次{f'，最近为 {code}' if code else ''}；{when_zh}进行下一次尝试。",
        f"do not wait: tasks retry {f.task_id}" if left > 10 else "",
        max(0.0, left),
    )


def _queued(f: TaskFacts, _: float) -> Explanation | None:
    if not f.in_stream or f.queue is None:
        return None
    q = f.queue
    if q.running >= q.slots:
        before = max(1, f.position or q.waiting)
        wait_s = before * mean_s(f) / max(1, q.slots)
        return Explanation(
            "SLOTS_FULL",
            f"All {q.slots} slots of {q.name} are busy and {before - 1} tasks are before it.",
            f"队列 {q.name} 的 {q.slots} 个槽位已满，前面还有 {before - 1} 个任务。",
            "more at once: QUEUE_PARALLELISM_*, or another process; `capacity` says how much" if wait_s > 120 else "",
            wait_s, guessed=True,
        )  # fmt: skip
    return Explanation(
        "NEXT",
        f"It lies in :{f.in_stream} of {q.name}, slots are free: it is read any moment.",
        f"它在 {q.name} 的 :{f.in_stream} 中，有空闲槽位，即将被读取。",
        starts_in_s=1.0, guessed=True,
    )  # fmt: skip


def _reserved(f: TaskFacts, _: float) -> Explanation | None:
    if f.reserved_at is None or f.entry_id or f.row is not None:
        return None
    return Explanation(
        "PROMISED",
        f"A place was taken {f.now - f.reserved_at:.0f} s ago, but the call with the task has not come. QStash delivers"
        " it, or the place is given back.",
        f"{f.now - f.reserved_at:.0f} 秒前已占位，但任务调用尚未到达；QStash 会投递，否则将释放占位。",
        "look for the message in QStash's console (Logs, DLQ)",
    )


def _undelivered(f: TaskFacts, _: float) -> Explanation | None:
    if not f.ended or f.row is not None:
        return None
    code = next((event.code for event in reversed(f.events) if event.terminal), "")
    return Explanation(
        "ENDED_UNCLAIMED", f"It ended before any attempt, with {code or 'no code'}.", f"未开始即结束（{code}）。"
    )


def _lost(f: TaskFacts, _: float) -> Explanation | None:
    if f.row is None:
        return None
    return Explanation(
        "LOST",
        f"Postgres says {f.row.state}, but no entry of it is in Redis. A daemon of {f.row.queue_id} puts it back after"
        " two looks, within about two minutes.",
        f"Postgres 中为 {f.row.state}，但 Redis 中没有它的条目；约两分钟内由守护进程恢复。",
        "" if f.queue and f.queue.consumers else _start(f),
        120.0, guessed=True,
    )  # fmt: skip


def _unstored(f: TaskFacts, _: float) -> Explanation | None:
    if not f.no_store or not f.entry_id:
        return None
    return Explanation(
        "SETTLED",
        "It was accepted and its entry is settled; how it ended is in Postgres, which was not asked.",
        "已被接受且条目已处理；结果在 Postgres 中，本次未查询。",
        f"Postgres {f.no_store}",
    )


_VERDICTS: Final[tuple[Callable[[TaskFacts, float], Explanation | None], ...]] = (
    _ended, _running, _in_hand, _paused, _nobody, _delayed, _queued, _reserved, _undelivered, _lost, _unstored,
)  # fmt: skip


def mean_s(f: TaskFacts) -> float:
    """How long tasks took lately: of the same service if any ended, else of all."""
    service = f.row.service_id if f.row else ""
    known = [r.run_mean_s for r in f.recent if r.run_mean_s is not None]
    own = [r.run_mean_s for r in f.recent if r.service_id == service and r.run_mean_s is not None]
    return own[0] if own else sum(known) / len(known) if known else MEAN_S


def _start(f: TaskFacts) -> str:
    return f"start a daemon: python -m daemon --queues {f.queue.name if f.queue else '…'}"


def _fill(f: TaskFacts, what: str) -> LimiterUse | None:
    return next((limiter for limiter in f.limiters if limiter.what == what), None)


def _count(limiter: LimiterUse | None) -> tuple[str, str]:
    if limiter is None:
        return "", ""
    if limiter.rank is None:
        line = line_zh = ""
    elif limiter.rank == 0:
        line, line_zh = "; it is next", "，下一个就是它"
    else:
        line, line_zh = f"; {limiter.rank} wait before it", f"，前面还有 {limiter.rank} 个"
    return f" ({limiter.in_use} of {limiter.limit} in use{line})", f"（{limiter.in_use}/{limiter.limit}{line_zh}）"


def _closed(f: TaskFacts) -> tuple[str, str]:
    if f.closed is None:
        return "", ""
    why, left = f.closed
    return f"; unavailable for {left:.0f} s more ({why})", f"；还有 {left:.0f} 秒不可用（{why}）"


# --- life ---------------------------------------------------------------------------------------------------------

PHASES: Final = {
    "queued": ("queued", "排队"),
    "waited": ("waited", "等待"),
    "first_token": ("until the first token", "等待首字"),
    "answered": ("answered", "生成"),
    "ran": ("ran", "运行"),
    "between": ("between attempts", "两次尝试之间"),
}


def life(f: TaskFacts) -> list[Phase]:
    """The stretches from acceptance to now or to the end, in order; zero-length ones are left out."""
    points = sorted(_points(f), key=lambda point: point[0])
    if not points:
        return []
    end = (f.row.finished_at if f.row else None) or next((e.at for e in f.events if e.terminal), None) or f.now
    ends = [at for at, *_ in points[1:]] + [max(end, points[-1][0])]
    phases = [
        Phase(kind, max(0.0, until - at), attempt, detail)
        for (at, kind, attempt, detail), until in zip(points, ends, strict=True)
        if kind and min(until, end) - at >= 0.001
    ]
    merged: list[Phase] = []
    for phase in phases:
        if merged and (merged[-1].kind, merged[-1].attempt, merged[-1].detail) == (
            phase.kind,
            phase.attempt,
            phase.detail,
        ):
            phase = Phase(phase.kind, merged.pop().seconds + phase.seconds, phase.attempt, phase.detail)  # noqa: PLW2901
        merged.append(phase)
    return merged


def _points(f: TaskFacts) -> Iterator[tuple[float, str, int, str]]:
    """When something began: (unix seconds, kind of the stretch that begins, attempt, detail)."""
    begin = f.row.created_at if f.row else f.reserved_at or next((e.at for e in f.events), None)
    if begin is not None:
        yield begin, "queued", 0, ""
    for event in f.events:
        if event.type == "progress" and event.reason and event.reason != "RETRY_AT":
            yield max(event.at, begin or 0.0), "waited", event.attempt, event.reason
    for attempt in f.attempts:
        first = attempt.first_token_at or _first_token(f, attempt.attempt)
        yield attempt.started_at, "ran" if first is None else "first_token", attempt.attempt, attempt.model_id or ""
        if first is not None:
            yield first, "answered", attempt.attempt, attempt.model_id or ""
        if attempt.finished_at is not None:
            more = f.row is not None and (attempt.attempt < f.row.attempt or f.row.finished_at is None)
            yield attempt.finished_at, "between" if more else "", attempt.attempt, attempt.code or attempt.outcome or ""


def _first_token(f: TaskFacts, attempt: int) -> float | None:
    """As the events tell it, for attempts that run or failed: their rows do not say."""
    return next((e.at for e in f.events if e.type == "token_batch" and e.attempt == attempt), None)
