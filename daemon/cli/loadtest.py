"""`python -m daemon loadtest`: a load, and what becomes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from daemon import config, services
from daemon.admin.load_generator import Order, Progress, Share, Target, default_mix, parse_mix
from daemon.admin.load_report import LoadReport, QueueReport, Spread
from daemon.admin.load_test import load_running
from daemon.cli import terminal as t
from daemon.services import ServiceCatalog


@click.command(
    "loadtest",
    epilog="Examples:  python -m daemon loadtest --in-process --rate 60 --faults 0.1   |   loadtest --rate 10"
    " --duration 120 --mix q_paid_stream:resume-review=3,q_free_batch:job-match --yes",
)
@click.option("--in-process", is_flag=True, help="On embedded servers and stand-ins: costs nothing, touches nothing.")
@click.option("--rate", default=30.0, show_default=True, type=click.FloatRange(0.1, 60_000), help="Tasks a minute.")
@click.option(
    "--duration", default=30.0, show_default=True, type=click.FloatRange(0.1, 86_400), help="Seconds of sending."
)
@click.option("--mix", "mix_text", metavar="Q:SERVICE=WEIGHT,…", help="Default: one text service for each text queue.")
@click.option(
    "--variables", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON object for the prompts."
)
@click.option("--users", default=20, show_default=True, type=click.IntRange(1, 100_000), help="Different users.")
@click.option("--faults", default=0.0, show_default=True, type=click.FloatRange(0, 1),
              help="Share of calls that are wrong on purpose; with --in-process of model calls, too.")  # fmt: skip
@click.option(
    "--drain", default=300.0, show_default=True, type=click.FloatRange(0), help="Seconds to wait for the last ends."
)
@click.option(
    "--sla",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds to the end, for the share in time.",
)
@click.option("--relay", "address", metavar="URL", help="Where the relay is reached, if not at WORKER_BASE_URL.")
@click.option("--yes", is_flag=True, help="Send it although real models may be paid for.")
@t.as_json
def command(
    *, in_process: bool, mix_text: str | None, variables: Path | None, address: str | None, yes: bool, sla: float,
    as_json: bool, **wanted: Any,
) -> None:  # fmt: skip
    """Send tasks as QStash does, follow each to its end, and measure waits, first tokens and ends.

    Against a running system it needs what the relay has (REDIS_URL, WORKER_BASE_URL, QSTASH_CURRENT_SIGNING_KEY), and
    --yes outside of development, because each task is real work. Exit 0 when every accepted task ended and every wrong
    call was refused, else 1. Failed tasks are reported; they are no failure of the load test.
    """
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    catalog = services.load(None if in_process else settings.runtime.services_file)
    order = Order(
        wanted["rate"], wanted["duration"], _mix(mix_text, catalog, variables), wanted["users"], wanted["faults"],
        wanted["drain"],
    )  # fmt: skip
    if in_process:
        found = t.run(_in_process(order, sla))
    else:
        _ask_first(settings, order, yes=yes)
        found = t.run(load_running(settings.redis, order, _target(settings, address), sla, _teller()))
    if as_json:
        t.emit(found)
    else:
        click.echo("\n".join(_lines(found, sla)))
    sys.exit(0 if found.good else t.EXIT_FAILED)


def _mix(text: str | None, catalog: ServiceCatalog, variables: Path | None) -> list[Share]:
    try:
        given = json.loads(variables.read_text("utf-8")) if variables else None
        mix = list(parse_mix(text, catalog, given)) if text else default_mix(catalog)
    except ValueError as mistake:
        raise click.BadParameter(str(mistake), param_hint="--variables" if not text else "--mix") from None
    if not mix:
        raise click.UsageError("no service of the services file fits a text queue; name one with --mix")
    return mix


def _ask_first(settings: config.Settings, order: Order, *, yes: bool) -> None:
    if yes or settings.runtime.development:
        return
    count = round(order.per_minute / 60 * order.duration_s)
    t.fail(
        f"this sends about {count} tasks to the real models of NODE_ENV={settings.runtime.environment}",
        "add --yes if that is wanted, or --in-process to use stand-ins", 2,
    )  # fmt: skip


def _target(settings: config.Settings, address: str | None) -> Target:
    base, signing = settings.relay.base_url, settings.qstash.current_keys
    if base is None or not signing:
        t.fail(
            "WORKER_BASE_URL and QSTASH_CURRENT_SIGNING_KEY are needed to sign calls", "or: loadtest --in-process", 78
        )
    return Target(base, signing[0].get_secret_value(), address)


async def _in_process(order: Order, sla_s: float) -> LoadReport:
    try:
        from daemon.dev.loadtest_world import run_in_process
    except ImportError as missing:
        t.fail(f"{missing.name} is not installed", "pip install 'qstreamd[demo]'")
    click.echo("starting servers of its own …", err=True)
    return await run_in_process(order, sla_s, _teller())


def _teller() -> Callable[[Progress], None]:
    """One line that changes on a terminal; elsewhere one line in ten seconds; all of it on stderr."""
    live, count = sys.stderr.isatty(), 0

    def tell(p: Progress) -> None:
        nonlocal count
        count += 1
        waiting = p.accepted - p.ended - p.running
        line = (
            f"{count:>4} s  sent {p.sent}  waiting {waiting}  running {p.running}  ended {p.ended}  failed {p.failed}"
        )
        if live:
            click.echo(f"\r{line}\033[K", err=True, nl=False, color=True)
        elif count % 10 == 0:
            click.echo(line, err=True)

    return tell


def _lines(found: LoadReport, sla_s: float) -> Iterator[str]:
    yield ""
    columns = ("sent", "done", "failed", "open", "wait-50/95/99", "first-50/95/99", "total-50/95/99", f"<{sla_s:g}s")
    yield t.table(("QUEUE", *columns), map(_row, found.queues), right=" ".join(columns), keep="QUEUE")
    yield ""
    answers = found.queues[-1].answer if found.queues else Spread(None, None, None)
    if answers.p50 is not None and answers.p99 is not None:
        yield f"relay answers   p50 {answers.p50 * 1000:.0f} ms, p99 {answers.p99 * 1000:.0f} ms"
    for name, counts in (("refused calls", found.refusals), ("failed with", found.codes), ("waited for", found.waits)):
        if counts:
            yield f"{name:<15} " + ", ".join(f"{t.safe(what)} {count}" for what, count in sorted(counts.items()))
    if found.wrong:
        yield f"wrong calls     {found.held} of {found.wrong} were answered as they must be"
    left = found.queues[-1].unended if found.queues else 0
    yield (
        click.style("✓ every accepted task ended", fg="green")
        if not left
        else click.style(f"✗ {left} accepted tasks have not ended: tasks explain says why", fg="red")
    )


def _row(q: QueueReport) -> tuple[str, ...]:
    in_time = "-" if q.in_sla is None else f"{q.in_sla:.1%}"
    return (q.queue, *map(str, (q.sent, q.done, q.failed, q.unended)), *map(_three, (q.wait, q.first_token, q.total)),
            in_time)  # fmt: skip


def _three(s: Spread) -> str:
    if s.p50 is None:
        return "-"
    return "/".join(
        f"{value:.1f}" if value < 100 else f"{value:.0f}" for value in (s.p50, s.p95, s.p99) if value is not None
    )
