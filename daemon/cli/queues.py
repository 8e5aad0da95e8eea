"""`python -m daemon queues …`: look at queues, pause, resume, size, drain and purge them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import click

from daemon import config
from daemon.admin.connections import Connections
from daemon.admin.orders import actor, blobs_here
from daemon.admin.queue_orders import Operator, QueueOrders, QueueView
from daemon.cli import terminal as t
from daemon.events.log import EventLog
from daemon.store.tasks import PostgresLedger

T = TypeVar("T")

#: `default` takes a setting back
_DEFAULT = "default"


class _Limit(click.ParamType[int | str]):
    name = "N|default"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """A whole number, or `default`."""
        if value == _DEFAULT:
            return _DEFAULT
        if not str(value).isdecimal() or int(value) < self._least:
            self.fail(f"a whole number from {self._least}, or {_DEFAULT}", param, ctx)
        return int(value)


@click.group("queues", cls=t.Noun, epilog='Example:  python -m daemon queues pause --all --reason "provider incident"')
def command() -> None:
    """Look at queues and control them. What runs goes on, whatever is ordered; every order is in the audit log."""


def _several(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("names", nargs=-1, metavar="[QUEUE]..."),
        click.option("--all", "everything", is_flag=True, help="All queues of the services file."),
        click.option("--reason", default="", help="Why; kept in the audit log and told to waiting viewers."),
        t.as_json,
    ):
        function = option(function)
    return function


@command.command("list")
@t.as_json
def list_queues(*, as_json: bool) -> None:
    """All queues: what waits, what runs, what was ordered."""
    views = t.run(_views(None))
    if as_json:
        t.emit([_told(view) for view in views])
        return
    head = ("QUEUE", "waiting", "running", "delayed", "dead", "places", "state", "set", "why")
    click.echo(t.table(head, map(_row, views), right="waiting running delayed dead places", keep="QUEUE"))


@command.command("show")
@click.argument("name", metavar="QUEUE")
@t.as_json
def show(*, name: str, as_json: bool) -> None:
    """One queue and the last order for it."""
    (view,) = t.run(_views([name]))
    told = _told(view)
    if as_json:
        t.emit(told)
        return
    for key, value in told.items():
        if value not in {None, ""}:
            shown = ("yes" if value else "no") if isinstance(value, bool) else value
            click.echo(f"{key:<18} {t.moment(value) if key == 'at' else t.safe(shown)}")


@command.command("pause", epilog='Example:  queues pause --all --reason "provider incident"   (the kill switch)')
@_several
def pause(*, names: tuple[str, ...], everything: bool, reason: str, as_json: bool) -> None:
    """Start nothing any more, in all daemons within a second. Producers are still let in up to the queue's size."""
    wanted = _wanted(names, everything=everything)
    told = t.run(_order(wanted, lambda orders, queues, by: orders.pause(queues, by, reason)))
    _done(f"paused; {told} waiting viewers were told why", {"told": told}, wanted, as_json=as_json)


@command.command("resume")
@_several
def resume(*, names: tuple[str, ...], everything: bool, reason: str, as_json: bool) -> None:
    """Start tasks again."""
    wanted = _wanted(names, everything=everything)
    t.run(_order(wanted, lambda orders, queues, by: orders.resume(queues, by, reason)))
    _done("resumed", {}, wanted, as_json=as_json)


@command.command("set", epilog="Example:  queues set q_free_batch --parallelism 2 --global-parallelism 6")
@_several
@click.option("--parallelism", type=_Limit(1), help="Attempts at once in one process.")
@click.option("--global-parallelism", type=_Limit(1), help="Attempts at once over all processes.")
@click.option("--max-size", type=_Limit(0), help="Tasks that may wait to start; 0: accept nothing.")
def set_limits(
    *, names: tuple[str, ...], everything: bool, reason: str, as_json: bool, **limits: int | str | None
) -> None:
    """Change limits at run time; they win over settings and services file until `default` takes them back."""
    wire = {"parallelism": "parallelism", "global_parallelism": "globalParallelism", "max_size": "maxSize"}
    fields = {wire[k]: None if v == _DEFAULT else int(v) for k, v in limits.items() if v is not None}
    if not fields:
        raise click.UsageError("name at least one of --parallelism, --global-parallelism, --max-size")
    wanted = _wanted(names, everything=everything)
    t.run(_order(wanted, lambda orders, queues, by: orders.set(queues, fields, by, reason)))
    _done("set", fields, wanted, as_json=as_json)


@command.command("drain", epilog="Undo:  queues set QUEUE --max-size default")
@click.argument("name", metavar="QUEUE")
@click.option("--reason", default="")
@click.option("--timeout", "timeout_s", default=3600.0, show_default=True, type=click.FloatRange(0), help="Seconds.")
@t.as_json
def drain(*, name: str, reason: str, timeout_s: float, as_json: bool) -> None:
    """Accept nothing more and wait until everything has ended. Exit 1 when something was left."""
    depth = t.run(_order([name], lambda orders, queues, by: orders.drain(queues[0], by, reason, timeout_s)))
    left = depth.waiting + depth.running + depth.delayed
    if left:
        t.fail(f"{left} tasks are left after {timeout_s:g} s", "it goes on accepting nothing; run `queues drain` again")
    _done("is empty and accepts nothing", {"left": 0}, [name], as_json=as_json)


@command.command("purge")
@click.argument("name", metavar="QUEUE")
@click.option("--reason", default="")
@click.option("--yes", is_flag=True, help="Do not ask.")
@t.as_json
def purge(*, name: str, reason: str, yes: bool, as_json: bool) -> None:
    """End every task that waits in QUEUE as CANCELLED. There is no way back."""
    (view,) = t.run(_views([name]))
    waiting = view.depth.waiting + view.depth.delayed
    if not yes:
        click.confirm(f"End {waiting} waiting tasks of {name} as CANCELLED?", abort=True, err=True)
    with t.progress(waiting, f"purging {name}") as told:
        ended = t.run(_order([name], lambda orders, queues, by: orders.purge(queues[0], by, reason, told), store=True))
    _done(f"{ended} tasks ended as CANCELLED", {"ended": ended}, [name], as_json=as_json)


def _wanted(names: Sequence[str], *, everything: bool) -> list[str] | None:
    if everything == bool(names):
        raise click.UsageError("name queues, or say --all")
    return None if everything else list(names)


def _done(text: str, told: dict[str, Any], names: Sequence[str] | None, *, as_json: bool) -> None:
    if as_json:
        t.emit({"queues": "all" if names is None else list(names), **told})
    else:
        click.echo(f"{'all queues' if names is None else ', '.join(names)}: {text}")


@asynccontextmanager
async def _open(names: Sequence[str] | None) -> AsyncIterator[tuple[Connections, QueueOrders, list[str]]]:
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    async with Connections(settings) as at:
        queues = list(at.catalog.queues) if names is None else list(names)
        for queue in queues:
            if queue not in at.catalog.queues:
                t.fail(f"queue {queue!r} is not known", f"known: {', '.join(at.catalog.queues)}", 2)
        events = EventLog(at.scripts, settings.events, at.clock)
        pool = None if at.no_store else at.pool
        ledger = PostgresLedger(pool, lambda: at.catalog.queues) if pool else None
        yield at, QueueOrders(at.scripts, events, pool, at.clock, ledger, blobs_here(at)), queues


async def _views(names: Sequence[str] | None) -> list[QueueView]:
    async with _open(names) as (_, orders, queues):
        return await orders.view(queues)


async def _order(names: Sequence[str] | None, order: Callable[..., Any], *, store: bool = False) -> Any:
    async with _open(names) as (at, orders, queues):
        await at.require_ours()
        if store:
            _ = at.pool  # raises what is missing
        elif at.no_store:
            t.hint(f"not in the audit log: Postgres {at.no_store}")
        return await order(orders, queues, Operator(actor()))


def _told(view: QueueView) -> dict[str, Any]:
    control = {name: value for name, value in asdict(view.control).items() if name != "paused"}
    depth = view.depth
    return {
        "queue": view.queue, "paused": view.control.paused, "waiting": depth.waiting, "running": depth.running,
        "delayed": depth.delayed, "dead": depth.dead, "places": depth.occupancy, "consumers": depth.consumers,
        **control,
    }  # fmt: skip


def _row(view: QueueView) -> tuple[str, ...]:
    c, depth = view.control, view.depth
    said = {"slots": c.parallelism, "global": c.global_parallelism, "size": c.max_size}
    state = click.style("paused", fg="yellow") if c.paused else "open"
    limits = " ".join(f"{name}={value}" for name, value in said.items() if value is not None) or "-"
    counts = (depth.waiting, depth.running, depth.delayed, depth.dead, depth.occupancy)
    return view.queue, *map(str, counts), state, limits, t.safe(f"{c.who} {c.why}".strip() or "-")
