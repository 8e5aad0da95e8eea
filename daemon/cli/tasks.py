"""`python -m daemon tasks …`: list, show, follow, explain, cancel and retry tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from daemon import config
from daemon.admin import orders
from daemon.admin.connections import Connections
from daemon.admin.explain import PHASES, Explanation, Language, Phase, explain, life
from daemon.admin.follow import EventsGone, follow
from daemon.admin.task_facts import TaskFacts, gather
from daemon.cli import terminal as t
from daemon.domain.clock import SystemClock
from daemon.domain.events import Event, EventType
from daemon.domain.messages import TASK_ID
from daemon.domain.states import State
from daemon.ports import StoredResult
from daemon.store.history import AttemptRow, ListedTask, TaskFilter
from daemon.store.records import TaskRow

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
GATHER_S = 5.0  #: of text that `tail` tells of in one line
NOT_KNOWN = "neither Redis nor Postgres knows this task"
NOT_KNOWN_HINT = "ids are case-sensitive; QStash may not have delivered it yet, or it was deleted"


def span_s(_: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`90s`, `15m`, `2h`, `7d` in seconds."""
    if value is None:
        return None
    found = _SPAN.fullmatch(value)
    if found is None:
        raise click.BadParameter("wants a number and s, m, h or d, such as 15m", param=parameter)
    return float(found[1]) * _UNIT_S[found[2]]


def task_id(_: click.Context, parameter: click.Parameter, value: str) -> str:
    """A task id."""
    if not TASK_ID.fullmatch(value):
        raise click.BadParameter("a task id has 1 to 64 of A-Z a-z 0-9 _ -", param=parameter)
    return value


_task = click.argument("task", callback=task_id)


@click.group("tasks", cls=t.Noun, epilog="Example:  python -m daemon tasks explain T-1042 --lang zh")
def command() -> None:
    """Look at single tasks, and act on them.

    Prompts and answers are never shown unless --content asks for them; then control characters are taken out.
    """


# --- list ---------------------------------------------------------------------------------------------------------


@command.command("list", epilog="Example:  tasks list --state failed --since 1h --json | jq -r '.[].task_id'")
@click.option(
    "--state", "states", multiple=True, type=click.Choice([state.value for state in State]), help="Again for several."
)
@click.option("--queue", metavar="Q")
@click.option("--service", metavar="S")
@click.option("--user", metavar="U")
@click.option("--since", metavar="15m", callback=span_s, help="Accepted within so long: s, m, h, d.")
@click.option("--before", type=float, metavar="UNIX", help="The next page: `created_at` of the last line.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@t.as_json
def list_tasks(*, states: tuple[str, ...], limit: int, as_json: bool, **wanted: Any) -> None:
    """Tasks that were claimed or have ended, newest first (from Postgres).

    One that only waits has no row yet: `status` counts it, `tasks explain` finds it.
    """
    settings = _settings()
    since_s = wanted.pop("since")
    found = t.run(_list(settings, TaskFilter(states=states or None, since_s=since_s, limit=limit, **wanted)))
    if as_json:
        t.emit(found)
    elif found:
        now = SystemClock().time()
        head = ("TASK", "state", "try", "service", "queue", "user", "age", "waited", "took", "code")
        click.echo(t.table(head, (_listed(task, now) for task in found), right="try age waited took", keep="TASK"))
    else:
        click.echo("No such task.")


async def _list(settings: config.Settings, wanted: TaskFilter) -> list[ListedTask]:
    async with Connections(settings) as at:
        return await at.history.tasks(wanted)


def _listed(task: ListedTask, now: float) -> tuple[str, ...]:
    waited = task.started_at - task.created_at if task.started_at else None
    took = task.finished_at - task.created_at if task.finished_at else None
    spans = (t.seconds(s) for s in (now - task.created_at, waited, took))
    names = (t.safe(name) for name in (task.service_id, task.queue_id, task.user_id))
    return task.task_id, _state(task.state), str(task.attempt), *names, *spans, task.error_code or ""


# --- show ---------------------------------------------------------------------------------------------------------


@command.command("show", epilog="Examples:  tasks show T-1042   |   tasks show T-1042 --content | less")
@_task
@click.option("--content", is_flag=True, help="Also the message and the answer. They may hold private text.")
@t.as_json
def show(*, task: str, content: bool, as_json: bool) -> None:
    """The row of a task, its attempts, its result. Exit 1 when Postgres has none."""
    row, result, attempts = t.run(_show(_settings(), task))
    document = {
        "task": {k: v for k, v in t.plain(row).items() if k != "message" or content},
        "attempts": t.plain(attempts),
        "result": _result(result, content=content),
    }
    if as_json:
        t.emit(document)
        return
    for name, value in document["task"].items():
        if value is not None:
            click.echo(f"{name:<13} {_value(name, value)}")
    if attempts:
        click.echo("")
        head = ("TRY", "model", "started", "first-token", "took", "outcome", "code", "tokens", "cost")
        click.echo(t.table(head, map(_attempt, attempts), right="TRY first-token took tokens cost"))
    if result is not None:
        click.echo(f"\nresult        db:result:{task}, {len(result.content)} characters, {result.content_sha256}")
        if result.finish_reason == "length":
            click.echo("finish        length: cut at a limit; see max_output_tokens of the service")
        if content:
            click.echo(t.safe(result.content, lines=True))


async def _show(settings: config.Settings, task: str) -> tuple[TaskRow, StoredResult | None, list[AttemptRow]]:
    async with Connections(settings) as at:
        found = await at.records.row(task)
        if found is None:
            t.fail(f"{task}: Postgres has no row of it", f"it may still wait: tasks explain {task}")
        return *found, await at.history.attempts(task)


def _result(result: StoredResult | None, *, content: bool) -> dict[str, Any] | None:
    if result is None:
        return None
    told: dict[str, Any] = {
        "id": result.id, "content_sha256": result.content_sha256, "characters": len(result.content),
        "model_id": result.model_id, "finish_reason": result.finish_reason, "cost_usd": result.usage.cost_usd,
    }  # fmt: skip
    return told | {"content": result.content, "data": result.data} if content else told


def _value(name: str, value: Any) -> str:
    if name.endswith("_at"):
        return t.moment(value)
    return _state(value) if name == "state" else t.safe(value)


def _attempt(a: AttemptRow) -> tuple[str, ...]:
    first = a.first_token_at - a.started_at if a.first_token_at else None
    took = a.finished_at - a.started_at if a.finished_at else None
    cost = "-" if a.cost_usd is None else f"${a.cost_usd:.6f}"
    at = datetime.fromtimestamp(a.started_at, UTC).strftime("%m-%d %H:%M:%S")
    outcome = a.outcome or "running"
    spans = (t.seconds(first), t.seconds(took))
    return (
        str(a.attempt),
        t.safe(a.model_id or "-"),
        at,
        *spans,
        outcome,
        a.code or "",
        "-" if a.output_tokens is None else str(a.output_tokens),
        cost,
    )


# --- tail ---------------------------------------------------------------------------------------------------------


@command.command("tail", epilog="Examples:  tasks tail T-1042   |   tasks tail T-1042 --after 1795420617069-0 --json")
@_task
@click.option("--after", default="0-0", metavar="ID", help="Only events after this id, as a viewer that comes back.")
@click.option("--content", is_flag=True, help="Also the text. It may be private.")
@click.option("--no-follow", is_flag=True, help="What there is, and end.")
@t.as_json
def tail(*, task: str, after: str, content: bool, no_follow: bool, as_json: bool) -> None:
    """Follow the events of a task as its viewer does, until the terminal one.

    Its text is told by length: the first piece of an attempt by itself, the others in a line for each 5 seconds.
    Waits for a task that is not there yet. Exit 0 after `done` (or with --no-follow), 1 after a terminal `error`.
    """
    if not re.fullmatch(r"\d{1,20}-\d{1,20}", after):
        raise click.BadParameter("an event's id is wanted, such as 1795420617069-0", param_hint="--after")
    try:
        good = t.run(_tail(_settings(), task, after, content=content, wait=not no_follow, as_json=as_json))
    except EventsGone as gone:
        t.fail(str(gone), f"what is left of it: tasks show {task}")
    if not good:
        raise SystemExit(t.EXIT_FAILED)


async def _tail(settings: config.Settings, task: str, after: str, *, content: bool, wait: bool, as_json: bool) -> bool:
    pieces = _Pieces()
    async with Connections(settings) as at:
        async for event in follow(at, task, after, wait=wait):
            data = event.data if content else {k: v for k, v in event.data.items() if k not in {"delta", "result"}}
            if as_json:
                t.emit_line({"id": event.id, **data})
            elif content or not pieces.keep(event):
                pieces.tell()
                click.echo(_event(event.id, event.type.value, event.data, content=content))
            if event.terminal:
                return event.type.value == "done"
    pieces.tell()
    return True


class _Pieces:
    """Token batches of one attempt and channel, gathered: an answer has hundreds."""

    def __init__(self) -> None:
        self._run: tuple[Any, ...] = ()
        self._held: list[Event] = []

    def keep(self, event: Event) -> bool:
        """Whether it will be told with others; the first of a run is not."""
        if event.type is not EventType.TOKEN_BATCH:
            self.tell()
            self._run = ()
            return False
        run = (event.data.get("attempt"), event.data.get("channel"))
        if run != self._run:
            self.tell()
            self._run = run
            return False
        self._held.append(event)
        if _at(event) - _at(self._held[0]) >= GATHER_S:
            self.tell()
        return True

    def tell(self) -> None:
        """Print what is held, as one line under the id of its last."""
        if self._held:
            last, characters = self._held[-1], sum(len(str(event.data.get("delta", ""))) for event in self._held)
            words = f"{last.data.get('channel')}: {characters} characters in {len(self._held)} pieces"
            click.echo(_event(last.id, last.type.value, last.data, content=False, words=words))
        self._held = []


def _at(event: Event) -> float:
    return float(event.data.get("timestamp", 0))


def _event(entry_id: str, kind: str, data: dict[str, Any], *, content: bool, words: str = "") -> str:
    words = words or _words(kind, data, content=content)
    place = f"{data.get('attempt', '?')}:{data.get('seq', '?')}"
    clock = click.style(_clock(data.get("timestamp", 0)), dim=True)
    return f"{clock}  {entry_id:<17} {place:>6}  {_kind(kind):<11}  {words}"


def _words(kind: str, data: dict[str, Any], *, content: bool) -> str:
    if kind == "token_batch":
        text = str(data.get("delta", ""))
        return f"{data.get('channel')}: {t.safe(text) if content else f'{len(text)} characters'}"
    told = {k: v for k, v in data.items() if k in {"stage", "modelId", "code", "reason", "message", "queueId",
            "position", "retryAt", "resultRef", "percent"}}  # fmt: skip
    if told.get("retryAt"):
        told["retryAt"] = _clock(told["retryAt"])
    return "  ".join(f"{k}={t.safe(v)}" for k, v in told.items())


def _clock(at: float) -> str:
    return datetime.fromtimestamp(float(at), UTC).strftime("%H:%M:%S.%f")[:-3]


def _kind(kind: str) -> str:
    colour = {"done": "green", "error": "red", "started": "cyan"}.get(kind)
    return click.style(f"{kind:<11}", fg=colour)


# --- explain ------------------------------------------------------------------------------------------------------


@command.command("explain", epilog="Examples:  tasks explain T-1042   |   tasks explain T-1042 --lang zh")
@_task
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@t.as_json
def explain_task(*, task: str, lang: Language, as_json: bool) -> None:
    """Why a task is where it is, when it will likely start, and how its life went. Exit 1 when nobody knows it."""
    settings = _settings()
    facts = t.run(_gather(settings, task))
    if facts is None:
        t.fail(f"{task}: {NOT_KNOWN}", NOT_KNOWN_HINT)
    found, phases = explain(facts, settings.lease.lease_s), life(facts)
    if as_json:
        t.emit({"task_id": task, **t.plain(found), "life": t.plain(phases), "facts": t.plain(_told(facts))})
        return
    click.echo("\n".join(_explained(facts, found, phases, lang)))


async def _gather(settings: config.Settings, task: str) -> TaskFacts | None:
    async with Connections(settings) as at:
        return await gather(at, task)


def _told(facts: TaskFacts) -> dict[str, Any]:
    """The facts without the message."""
    document = {k: v for k, v in t.plain(facts).items() if k != "recent"}
    if document["row"] is not None:
        document["row"].pop("message")
    return document


def _explained(f: TaskFacts, found: Explanation, phases: list[Phase], lang: Language) -> Iterator[str]:
    zh = lang == "zh"
    where = f"{f.queue.name}" if f.queue else "?"
    yield f"{click.style(f.task_id, bold=True)}  {where}  {click.style(found.code, fg=_tone(found.code))}"
    yield t.safe(found.text(lang))
    if found.starts_in_s is not None:
        about = ("约 " if zh else "about ") if found.guessed else ""
        yield f"{'预计开始' if zh else 'Starts in'}: {about}{t.seconds(found.starts_in_s)}"
    if found.cure:
        yield click.style("怎么办: " if zh else "What to do: ", fg="cyan") + t.safe(found.cure)
    if phases:
        yield ""
        yield from _drawn(f, phases, zh=zh)


def _drawn(f: TaskFacts, phases: list[Phase], *, zh: bool) -> Iterator[str]:
    total = sum(phase.seconds for phase in phases)
    labels = [PHASES[phase.kind][zh] + (f" {t.safe(phase.detail)}" if phase.detail else "") for phase in phases]
    widest, at = max(map(t.cells, labels)), 0.0
    bar = max(10, min(40, t.width() - widest - 24))
    for phase, label in zip(phases, labels, strict=True):
        begin, columns = round(bar * at / total), max(1, round(bar * phase.seconds / total))
        at += phase.seconds
        line = " " * min(begin, bar - 1) + "█" * min(columns, bar - min(begin, bar - 1))
        attempt = f"#{phase.attempt}" if phase.attempt else ""
        padding = " " * (widest - t.cells(label))
        yield f"  {attempt:<3} {label}{padding}  {line:<{bar}}  {t.seconds(phase.seconds):>9}"
    costs = [a.cost_usd for a in f.attempts if a.cost_usd is not None]
    tokens = sum(a.output_tokens or 0 for a in f.attempts)
    cost = f"  ${sum(costs):.6f}" if costs else ""
    whole, unit = ("合计", "个输出词元") if zh else ("in all", "output tokens")
    yield f"  {whole}: {t.seconds(total)}  {tokens} {unit}{cost}"


def _tone(code: str) -> str:
    calm, bad = {"DONE", "RUNNING", "STARTING", "NEXT"}, {"FAILED", "EXPIRED", "LOST", "NO_CONSUMER"}
    return "green" if code in calm else "red" if code in bad else "yellow"


# --- cancel, retry ------------------------------------------------------------------------------------------------


@command.command("cancel", epilog="Example:  tasks cancel T-1042 --reason 'the user asked by mail'")
@_task
@click.option("--reason", default="", help="For the audit log.")
@t.as_json
def cancel(*, task: str, reason: str, as_json: bool) -> None:
    """End a task: at once when it waits, at its next event when it runs. Exit 1 when it has ended before."""
    _told_order(t.run(orders.cancel(_settings(), task, reason)), as_json=as_json)


@command.command("retry", epilog="Example:  tasks retry T-1042 --reason 'the provider is back'")
@_task
@click.option("--reason", default="", help="For the audit log.")
@t.as_json
def retry(*, task: str, reason: str, as_json: bool) -> None:
    """Start a failed or expired task anew, or a delayed one now. Exit 1 when it is in no such state."""
    _told_order(t.run(orders.retry(_settings(), task, reason)), as_json=as_json)


def _told_order(answer: orders.ActionResult, *, as_json: bool) -> None:
    if as_json:
        t.emit(answer)
    else:
        click.echo(f"{answer.task_id}: {answer.text}", err=not answer.good)
    if not answer.good:
        raise SystemExit(t.EXIT_FAILED)


# --- shared -------------------------------------------------------------------------------------------------------


def _settings() -> config.Settings:
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    return settings


def _state(state: str) -> str:
    colours = {"done": "green", "running": "cyan", "failed": "red", "expired": "red", "retrying": "yellow"}
    return click.style(state, fg=colours.get(state))
