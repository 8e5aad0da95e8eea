"""The end of the demo: what was written to Postgres, whether every promise was kept, and the tables that show it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.dev.demo.watching import Phase, Watched
from daemon.dev.demo.world import World
from daemon.domain.messages import content_sha256
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.redis_client import keys

SETTLE_S: Final = 3.0  #: the ack follows the terminal event within milliseconds

ROWS: Final = """\
SELECT a.task_id, a.attempt, a.outcome, a.code, r.id AS result, length(r.content) AS chars,
       round((r.usage->>'costUsd')::numeric, 6) AS usd, left(r.content_sha256, 8) AS sha256
FROM qstreamd.attempts a LEFT JOIN qstreamd.results r USING (task_id, attempt)
WHERE a.task_id LIKE $1 ORDER BY a.started_at"""
_CONTENTS: Final = """\
SELECT t.task_id, t.state, t.attempt, r.content, r.content_sha256
FROM qstreamd.tasks t LEFT JOIN qstreamd.results r USING (task_id) WHERE t.task_id LIKE $1"""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and whether it was kept; `found` says what was seen instead."""

    promise: str
    found: Sequence[str] = ()

    @property
    def kept(self) -> bool:
        """Nothing was found."""
        return not self.found


@dataclass(frozen=True, slots=True)
class Closing:
    """Everything that is shown and judged at the end. Times in seconds since the start of the demo."""

    tasks: Sequence[Watched]
    rows: Sequence[dict[str, Any]]
    checks: Sequence[Check]
    first_token_s: float | None
    took_s: float

    @property
    def good(self) -> bool:
        """Every promise was kept."""
        return all(check.kept for check in self.checks)


async def closing(
    world: World, run: str, tasks: Sequence[Watched], *, began: float, first_token_s: float | None
) -> Closing:
    """What Postgres, Redis and the stand-ins say about the tasks of this run."""
    connection = await world.connect()
    try:
        rows = [dict(row) for row in await connection.fetch(ROWS, f"demo-{run}-%")]
        contents = {row["task_id"]: dict(row) for row in await connection.fetch(_CONTENTS, f"demo-{run}-%")}
    finally:
        await connection.close(timeout=5)
    whole = "the text that was streamed = contentSha256 = results.content"
    ordered = "events in order, each stream with one queued and one end"
    checks = [
        Check(whole, [*_other_texts(tasks, contents)]),
        Check(ordered, [f"{t.order.name}: {b}" for t in tasks for b in t.broken]),
        Check("nothing left in the queues", await _left(world)),
    ]
    if world.real is not None:
        checks.insert(0, Check(f"{world.real.model.name} has answered", [*_not_done(tasks)]))
    else:
        checks[:0] = [
            Check(f"all {len(tasks)} tasks are done, in six queues", [*_not_done(tasks)]),
            Check("the one that broke off was run again and ended on attempt 2", [*_other_attempts(tasks)]),
        ]
        checks[-1:-1] = [
            Check("the call that QStash delivered twice ran once", _calls(world, tasks)),
            Check("both screenshots reached the model", _pictures(world, tasks)),
        ]
    return Closing(tasks, rows, checks, first_token_s, time.monotonic() - began)


def _not_done(tasks: Sequence[Watched]) -> list[str]:
    return [f"{t.order.name}: {t.phase} {t.code}".rstrip() for t in tasks if t.phase is not Phase.DONE]


def _other_attempts(tasks: Sequence[Watched]) -> list[str]:
    return [f"{t.order.name}: attempt {t.attempt}" for t in tasks if t.attempt != t.order.attempts]


def _other_texts(tasks: Sequence[Watched], contents: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    for task in tasks:
        row = contents.get(task.task_id)
        if row is None or row["content"] is None:
            found.append(f"{task.order.name}: no result")
            continue
        hashes = {task.done.get("contentSha256"), row["content_sha256"], content_sha256(row["content"])}
        if len(hashes) > 1 or (task.streams and task.text != row["content"]):
            found.append(f"{task.order.name}: they differ")
        if (row["state"], row["attempt"]) != ("done", task.attempt):
            found.append(f"{task.order.name}: {row['state']}, attempt {row['attempt']} in Postgres")
    return found


def _calls(world: World, tasks: Sequence[Watched]) -> list[str]:
    found = []
    for task in tasks:
        said = [c.answer for c in world.qstash.delivered if f'"{task.task_id}"'.encode() in c.body]
        states = [
            "duplicate" if b'"duplicate"' in a.body else "queued" if a.status == 200 else str(a.status) for a in said
        ]
        if states != (["queued", "duplicate"] if task.order.twice else ["queued"]):
            found.append(f"{task.order.name}: {', '.join(states) or 'no call'}")
    calls, wanted = len(world.models.calls), sum(t.order.attempts for t in tasks)
    return found if calls == wanted else [*found, f"{calls} calls of a model, not {wanted}"]


def _pictures(world: World, tasks: Sequence[Watched]) -> list[str]:
    seen, wanted = sum(c.images for c in world.models.calls), sum(t.order.picture for t in tasks)
    return [] if seen == wanted else [f"{seen} of {wanted}"]


async def _left(world: World) -> list[str]:
    deadline = time.monotonic() + SETTLE_S
    while True:
        found = []
        for queue in DEFAULT_QUEUES:
            its = keys.queue_keys(queue)
            here = [
                await world.redis.xlen(its.tasks),
                await world.redis.xlen(its.ready),
                await world.redis.zcard(its.retry),
            ]
            if any(here) or int(await world.redis.get(its.counter) or 0):
                found.append(f"{queue}: {sum(here)}")
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.05)


# --- showing ----------------------------------------------------------------------------------------------------------


def show(console: Console, end: Closing) -> None:
    """The tables and the promises, for people."""
    console.print()
    console.print(_tasks(end.tasks, wide=console.width >= 96))
    console.print()
    console.print(Text("What it wrote to Postgres: qstreamd.attempts beside qstreamd.results", "bold"))
    console.print(_rows(end, wide=console.width >= 88))
    console.print()
    for check in end.checks:
        mark, style = ("✓", "green") if check.kept else ("✗", "bold red")
        console.print(Text.assemble((f" {mark} ", style), check.promise))
        for found in check.found:
            console.print(Text(f"     {found}", "red"))
    token = "no token" if end.first_token_s is None else f"first token after {end.first_token_s:.1f} s"
    console.print(Text(f"\n {token}, everything after {end.took_s:.1f} s", "bold"))


def _tasks(tasks: Sequence[Watched], *, wide: bool) -> Table:
    table = _table()
    table.add_column("task", style="bold", no_wrap=True)
    table.add_column("queue", style="blue", no_wrap=True)
    if wide:
        table.add_column("service", no_wrap=True)
    for name in ("wait s", "token s", "total s", "tries", "tokens", "result"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in tasks:
        used = t.done.get("usage", {})
        table.add_row(
            t.order.name,
            t.order.queue,
            *([t.order.service] if wide else []),
            f"{t.wait_s:.2f}",
            "" if t.first_token_s is None else f"{t.first_token_s:.2f}",
            f"{t.duration_s:.1f}",
            Text(str(t.attempt), "yellow" if t.attempt > 1 else ""),
            f"{used.get('inputTokens', 0)}+{used.get('outputTokens', 0)}",
            str(t.phase) if t.phase is Phase.DONE else Text(t.code or t.phase, "red"),
        )
    return table


def _rows(end: Closing, *, wide: bool) -> Table:
    table = _table()
    numbers = {"attempt", "result", "chars", "usd"}
    names = [name for name in (end.rows[0] if end.rows else ()) if wide or name != "sha256"]
    for name in names:
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=True)
    for row in end.rows:
        style = "yellow" if row["outcome"] != "done" else ""
        table.add_row(*("" if row[name] is None else str(row[name]) for name in names), style=style)
    return table


def _table() -> Table:
    return Table(box=box.HORIZONTALS, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), border_style="dim")


def as_json(end: Closing) -> dict[str, Any]:
    """The same for programs."""
    return {
        "ok": end.good,
        "firstTokenS": None if end.first_token_s is None else round(end.first_token_s, 3),
        "tookS": round(end.took_s, 3),
        "tasks": [
            {
                "taskId": t.task_id, "queueId": t.order.queue, "serviceId": t.order.service, "state": str(t.phase),
                "attempt": t.attempt, "waitS": round(t.wait_s, 3), "durationS": round(t.duration_s, 3),
                "firstTokenS": None if t.first_token_s is None else round(t.first_token_s, 3),
                "usage": t.done.get("usage"), "resultRef": t.result_ref, "contentSha256": t.done.get("contentSha256"),
                "errorCode": t.code if t.phase is Phase.FAILED else None,
            }
            for t in end.tasks
        ],
        "rows": [{k: float(v) if k == "usd" and v is not None else v for k, v in row.items()} for row in end.rows],
        "checks": [{"promise": c.promise, "kept": c.kept, "found": list(c.found)} for c in end.checks],
    }  # fmt: skip
