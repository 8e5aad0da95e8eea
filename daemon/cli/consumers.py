"""`python -m daemon consumers`: who reads which queue."""

from __future__ import annotations

import click

from daemon import config
from daemon.admin.connections import Connections
from daemon.admin.orders import delete_consumers
from daemon.admin.status import ConsumerState, read_overview
from daemon.cli import terminal as t


@click.command("consumers", epilog="Examples:  python -m daemon consumers   |   consumers --delete")
@click.option("--queue", metavar="Q", help="Only this queue.")
@click.option("--delete", is_flag=True, help="Delete the lapsed that have nothing pending; what is pending never goes.")
@click.option("--bury", "earlier_name", is_flag=True, hidden=True)
@t.as_json
def command(*, queue: str | None, delete: bool, earlier_name: bool, as_json: bool) -> None:
    """Who reads what: tasks in hand, last word, life.

    alive: its record is fresh. lapsed: it went silent; the living take over its tasks within a lease, then delete it.
    no record: it reads without one, for a moment at a start, or because the record was lost.
    """
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    found, deleted = t.run(_look(settings, queue, delete=delete or earlier_name))
    if as_json:
        t.emit({"consumers": t.plain(found), "deleted": t.plain(deleted)})
        return
    rows = [
        (c.queue, t.safe(c.name), _life(c), str(c.pending), t.seconds(c.idle_s), t.seconds(c.record_s)) for c in found
    ]
    if rows:
        click.echo(
            t.table(("QUEUE", "consumer", "life", "tasks", "silent", "record"), rows, right="tasks silent record")
        )
    else:
        click.echo("Nobody reads.")
        t.hint("start one: python -m daemon --queues q_paid_stream,…")
    for consumer in deleted:
        click.echo(f"deleted {consumer.queue}/{t.safe(consumer.name)}")


def _life(c: ConsumerState) -> str:
    if c.alive:
        return click.style("alive", fg="green")
    return click.style("lapsed", fg="red") if c.alive is False else click.style("no record", fg="yellow")


async def _look(
    settings: config.Settings, queue: str | None, *, delete: bool
) -> tuple[list[ConsumerState], list[ConsumerState]]:
    async with Connections(settings) as at:
        if queue is not None and queue not in at.catalog.queues:
            t.fail(f"queue {queue!r} is not known", f"known: {', '.join(at.catalog.queues)}", 2)
        found = [c for c in (await read_overview(at, recent=False)).consumers if queue in {None, c.queue}]
        deleted: list[ConsumerState] = []
        if delete:
            await at.require_ours()
            deleted = await delete_consumers(at, [c for c in found if c.dead])
        return [c for c in found if c not in deleted], deleted
