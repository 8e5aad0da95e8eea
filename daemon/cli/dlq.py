"""`python -m daemon dlq …`: look at dead letters, run their tasks again, drop them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from daemon import config
from daemon.admin.connections import Connections
from daemon.admin.dead_letter_orders import Fate, drop_letters, read_letters, replay_letters
from daemon.cli import terminal as t
from daemon.cli.tasks import span_s
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code
from daemon.queues.dead_letters import DeadLetter, DeadLetterFilter

_MOST: Final = 100_000  #: letters that one command takes up; a queue keeps 10,000


@click.group("dlq", cls=t.Noun, epilog="Example:  python -m daemon dlq replay --code LLM_ERROR --newer 2h --dry-run")
def command() -> None:
    """Tasks that ended badly: list, look, run again, drop. A letter holds no prompt; the task's row does."""


def _choice(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--queue", "queues", multiple=True, metavar="Q", help="Again for several; all when left out."),
        click.option("--code", "codes", multiple=True, type=click.Choice([c.value for c in Code]), metavar="CODE"),
        click.option("--older", metavar="2d", callback=span_s, help="Died at least so long ago: s, m, h, d."),
        click.option("--newer", metavar="2h", callback=span_s, help="Died within so long."),
        t.as_json,
    ):
        function = option(function)
    return function


def _act(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("tasks", nargs=-1, metavar="[TASK]..."),
        click.option("--all", "everything", is_flag=True, help="Every letter of the chosen queues."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        click.option("--reason", default="", help="Why; kept in the audit log."),
    ):
        function = option(function)
    return _choice(function)


@command.command("list")
@_choice
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, _MOST), help="Of each queue.")
def list_letters(*, limit: int, as_json: bool, queues: tuple[str, ...], **conditions: Any) -> None:
    """Dead letters, newest first."""
    found = t.run(_letters(queues, _filter((), **conditions), limit))
    if as_json:
        t.emit(found)
        return
    if not found:
        click.echo("No dead letters.")
        return
    now = SystemClock().time()
    head = ("TASK", "queue", "service", "code", "tries", "died", "why")
    rows = (
        (t.safe(x.task_id or "-"), x.queue, t.safe(x.service_id), t.safe(x.code), str(x.attempts),
         t.seconds(now - x.at), t.safe(x.reason))
        for x in found
    )  # fmt: skip
    click.echo(t.table(head, rows, right="tries died", keep="TASK"))


@command.command("show")
@click.argument("task", metavar="TASK")
@t.as_json
def show(*, task: str, as_json: bool) -> None:
    """The letters of one task and what Postgres knows of it, without its content. Exit 1 when there is none."""
    document = t.run(_show(task))
    if not document["letters"] and document["task"] is None:
        t.fail(f"{task}: no dead letter and no row", "letters are kept for a time: QSTREAMD_DEAD_AGE_S")
    if as_json:
        t.emit(document)
        return
    for letter in document["letters"]:
        for key, value in letter.items():
            click.echo(f"{key:<12} {t.safe(value)}")
        click.echo()
    for key, value in (document["task"] or {}).items():
        click.echo(f"{key:<12} {t.safe(value)}")


@command.command("replay", epilog="Example:  dlq replay T-1042   |   dlq replay --code LLM_ERROR --newer 2h")
@_act
def replay_command(*, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Run tasks anew: the attempts go on counting, events begin again with `queued`.

    Only failed and expired tasks, never twice. Images that came with the message are gone and not brought back.
    Exit 1 when a task was refused.
    """
    fates = t.run(_replay(dry_run=dry_run, **_selection(**chosen)))
    _told(fates, as_json=as_json)
    if any(fate.done == "refused" for fate in fates):
        click.get_current_context().exit(t.EXIT_FAILED)


@command.command("drop")
@_act
def drop(*, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Forget letters. Their tasks stay as they are in Postgres."""
    _told(t.run(_drop(dry_run=dry_run, **_selection(**chosen))), as_json=as_json)


def _filter(tasks: Sequence[str], codes: Sequence[str], older: float | None, newer: float | None) -> DeadLetterFilter:
    return DeadLetterFilter(frozenset(tasks), frozenset(codes), older, newer)


def _selection(
    *, tasks: Sequence[str], everything: bool, queues: Sequence[str], reason: str, **conditions: Any
) -> dict[str, Any]:
    letter_filter = _filter(tasks, **conditions)
    if letter_filter.everything != everything:
        raise click.UsageError("name tasks, a --code or an age; or say --all, which takes no other condition")
    return {"queues": queues, "letter_filter": letter_filter, "reason": reason}


async def _letters(queues: Sequence[str], letter_filter: DeadLetterFilter, limit: int) -> list[DeadLetter]:
    async with Connections(config.load()) as at:
        return await _read(at, queues, letter_filter, limit)


async def _read(
    at: Connections, queues: Sequence[str], letter_filter: DeadLetterFilter, limit: int
) -> list[DeadLetter]:
    unknown = sorted(set(queues) - set(at.catalog.queues))
    if unknown:
        raise click.UsageError(f"unknown queue {unknown[0]!r}; known: {', '.join(at.catalog.queues)}")
    return await read_letters(at, queues, letter_filter, limit)


async def _show(task: str) -> dict[str, Any]:
    async with Connections(config.load()) as at:
        letters = await _read(at, (), DeadLetterFilter({task}), 10)
        found = await at.records.row(task) if not at.no_store else None
        row = None if found is None else {k: v for k, v in t.plain(found[0]).items() if k != "message"}
        return {"letters": t.plain(letters), "task": row}


async def _replay(queues: Sequence[str], letter_filter: DeadLetterFilter, reason: str, *, dry_run: bool) -> list[Fate]:
    async with Connections(config.load()) as at:
        await at.require_ours()
        return await replay_letters(at, await _read(at, queues, letter_filter, _MOST), reason, dry_run=dry_run)


async def _drop(queues: Sequence[str], letter_filter: DeadLetterFilter, reason: str, *, dry_run: bool) -> list[Fate]:
    async with Connections(config.load()) as at:
        await at.require_ours()
        return await drop_letters(at, await _read(at, queues, letter_filter, _MOST), reason, dry_run=dry_run)


def _told(fates: Sequence[Fate], *, as_json: bool) -> None:
    if as_json:
        t.emit(list(fates))
    elif fates:
        rows = ((t.safe(f.task_id or "-"), f.queue, f.done, t.safe(f.text)) for f in fates)
        click.echo(t.table(("TASK", "queue", "what", ""), rows, keep="TASK"))
    else:
        click.echo("No such dead letters.")
