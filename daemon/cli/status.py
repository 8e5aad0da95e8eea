"""`python -m daemon status`: what goes on now, on one screen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import click

from daemon import config
from daemon.admin.connections import Connections
from daemon.admin.status import LimiterState, Overview, QueueState, read_overview
from daemon.cli import terminal as t
from daemon.store.history import Recent


@click.command(
    "status",
    epilog="Examples:  python -m daemon status   |   status --watch   |   status --json | jq '.queues[].waiting'",
)
@click.option("--watch", is_flag=True, help="Look again and again; one JSON object a line with --json. Ctrl-C ends it.")
@click.option(
    "--every", default=2.0, show_default=True, type=click.FloatRange(0.2, 3600), help="Seconds between looks."
)
@t.as_json
def command(*, watch: bool, every: float, as_json: bool) -> None:
    """Queues, consumers, concurrency limiters and what ended in the last hour.

    Reads sizes from the streams themselves, so they are right however many entries were deleted. Exit 0; 75 when Redis
    is away. Without Postgres all but the last hour is shown.
    """
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    t.run(_show(settings, every if watch else None, as_json=as_json))


async def _show(settings: config.Settings, every: float | None, *, as_json: bool) -> None:
    async with Connections(settings) as at:
        while True:
            overview = await read_overview(at)
            if as_json:
                (t.emit if every is None else t.emit_line)(overview)
            else:
                if every is not None:
                    click.clear()
                click.echo("\n".join(screen(overview)))
            if every is None:
                return
            await asyncio.sleep(every)


def screen(overview: Overview) -> Iterator[str]:
    """The lines of one look."""
    yield t.table(
        ("QUEUE", "waiting", "oldest", "running", "delayed", "dead", "places", "state"),
        (_row(queue) for queue in overview.queues),
        right="waiting oldest running delayed dead places",
        keep="QUEUE",
    )
    yield ""
    names = sorted({c.name for c in overview.consumers if c.alive})
    lapsed = [c for c in overview.consumers if c.alive is False]
    yield f"CONSUMERS  {len(names)} alive" + (f": {', '.join(map(t.safe, names[:4]))}" if names else "")
    if lapsed:
        lost = sum(c.pending for c in lapsed)
        yield click.style(f"           {len(lapsed)} lapsed, {lost} tasks of theirs wait to be taken over", fg="yellow")
    used = [limiter for limiter in overview.limiters if limiter.in_use or limiter.closed]
    if used:
        yield ""
        yield t.table(("MODEL", "tier", "in-use", "", "state"), map(_limiter, used), right="in-use", keep="MODEL")
    yield ""
    yield from _recent(overview)
    yield from (click.style(note, fg="yellow") for note in overview.notes)


def _row(q: QueueState) -> tuple[str, ...]:
    oldest = t.seconds(q.oldest_wait_s)
    if q.oldest_wait_s is not None and q.oldest_wait_s > 60:
        oldest = click.style(oldest, fg="yellow")
    dead = click.style(str(q.dead), fg="red") if q.dead else "0"
    return q.name, str(q.waiting), oldest, f"{q.running}/{q.slots}", str(q.delayed), dead, _places(q), _state(q)


def _limiter(g: LimiterState) -> tuple[str, ...]:
    state = click.style(f"unavailable: {t.safe(g.closed)}", fg="yellow") if g.closed else "available"
    return g.model, g.tier, f"{g.in_use}/{g.limit}", t.share(g.in_use, g.limit), state


def _places(q: QueueState) -> str:
    text = f"{q.places}/{q.max_size}"
    return click.style(text, fg="red") if q.places >= q.max_size else text


def _state(q: QueueState) -> str:
    if q.paused:
        return click.style("paused", fg="yellow") + (f": {t.safe(q.paused_why)}" if q.paused_why else "")
    if not q.consumers:
        return click.style("nobody reads it", fg="red" if q.waiting else "yellow")
    return "full" if q.places >= q.max_size else "open"


def _recent(overview: Overview) -> Iterator[str]:
    if overview.recent is None:
        return
    span = t.seconds(overview.window_s)
    if not overview.recent:
        yield f"No attempt ended in the last {span}."
        return
    yield t.table(
        (f"LAST {span}", "done", "wait-p95", "run-mean", "run-p95", "tokens", "cost", "else"),
        (_past(recent) for recent in overview.recent),
        right="done wait-p95 run-mean run-p95 tokens cost",
    )


def _past(r: Recent) -> tuple[str, ...]:
    others = ", ".join(f"{code} {count}" for code, count in sorted(r.outcomes.items()) if code != "done")
    cost = "-" if r.cost_usd is None else f"${r.cost_usd:.4f}"
    spans = (t.seconds(s) for s in (r.wait_p95_s, r.run_mean_s, r.run_p95_s))
    return t.safe(r.service_id), str(r.outcomes.get("done", 0)), *spans, t.short(r.tokens), cost, t.safe(others)
