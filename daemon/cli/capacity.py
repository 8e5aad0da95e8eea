"""`python -m daemon capacity`: how many slots a load needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import click

from daemon import config, services
from daemon.admin.capacity import Load, Outcome
from daemon.admin.capacity_plan import Plan, Wishes, plan
from daemon.cli import terminal as t

_BURST = re.compile(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)m")


def burst(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, float]:
    """`3x5m`: three times the rate for five minutes in every hour."""
    if value is None:
        return 1.0, 0.0
    found = _BURST.fullmatch(value)
    if found is None or not 1 <= float(found[1]) <= 100 or not 0 < float(found[2]) <= 60:
        raise click.BadParameter("wants FACTORxMINUTESm, such as 3x5m", param=parameter)
    return float(found[1]), float(found[2]) * 60


@click.command(
    "capacity",
    epilog="Example:  python -m daemon capacity --rate 10 --mean 60 --p95 180 --sla 300 --burst 3x5m --model gpt"
    " --tokens-in 2000 --tokens-out 800",
)
@click.option("--rate", default=10.0, show_default=True, type=click.FloatRange(0.01, 10_000), help="Tasks a minute.")
@click.option("--mean", default=60.0, show_default=True, type=click.FloatRange(0.1), help="Seconds a task takes.")
@click.option(
    "--p95", default=180.0, show_default=True, type=click.FloatRange(0.1), help="Seconds; at most 3.87 means."
)
@click.option(
    "--sla", default=300.0, show_default=True, type=click.FloatRange(1), help="Seconds to the end, waiting included."
)
@click.option(
    "--target", default=0.98, show_default=True, type=click.FloatRange(0.5, 0.9999), help="Share within --sla."
)
@click.option("--burst", callback=burst, metavar="3x5m", help="So many times the rate, for so long, in every hour.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1), help="Attempts are ended after so many seconds (total_s)."
)
@click.option(
    "--per-process", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Slots of one process."
)
@click.option("--lost", default=0, show_default=True, type=click.IntRange(0, 100), help="Processes that may be away.")
@click.option(
    "--wait-max",
    default=120.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Longest acceptable wait: the queue's limit.",
)
@click.option("--backlog", default=0, type=click.IntRange(0), help="Tasks that wait already: when are they gone?")
@click.option(
    "--model", "models", multiple=True, metavar="M", help="A modelId of the services file: its limits and price."
)
@click.option("--tokens-in", default=0, type=click.IntRange(0), help="Of one task.")
@click.option("--tokens-out", default=0, type=click.IntRange(0), help="Of one task.")
@t.as_json
def command(
    *, rate: float, mean: float, p95: float, sla: float, target: float, burst: tuple[float, float],
    timeout_s: float | None, per_process: int, lost: int, wait_max: float, backlog: int, models: tuple[str, ...],
    tokens_in: int, tokens_out: int, as_json: bool,
) -> None:  # fmt: skip
    """Slots, processes, queue limit, memory, cost and the provider limit that binds first.

    Durations are lognormal, arrivals Poisson, service in order; simulated, the worst of three runs of 20 000 tasks.
    Exit 0; 1 when no number of slots can keep the promise.
    """
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    catalog = services.load(settings.runtime.services_file, deep=False)
    for name in models:
        if name not in catalog.models:
            raise click.BadParameter(
                f"{name!r} is not in the services file: {', '.join(catalog.models)}", param_hint="--model"
            )
    if not mean < p95 <= 3.86 * mean:
        raise click.BadParameter(f"wanted: mean < P95 <= 3.86 means ({3.86 * mean:g})", param_hint="--p95")
    load = Load(rate, mean, p95, sla, *burst, timeout_s)
    named = tuple(catalog.models[name] for name in models)
    found = plan(load, Wishes(target, per_process, lost, backlog, wait_max, tokens_in, tokens_out, named))
    if as_json:
        t.emit(found)
    else:
        click.echo("\n".join(_lines(found, load)))
    sys.exit(0 if found.reachable else t.EXIT_FAILED)


def _lines(found: Plan, load: Load) -> Iterator[str]:
    yield click.style(click.wrap_text(found.verdict, t.width()), bold=True, fg=None if found.reachable else "red")
    yield from (click.wrap_text(line, t.width(), "  ", "  ") for line in found.advice)
    yield ""
    wait = "" if found.wait_share is None or load.burst_s else f", P(wait) {found.wait_share:.0%} by Erlang C"
    yield f"Offered load {found.offered:.1f} attempts at once (mean {load.served_mean_s:.0f} s){wait}."
    rows = (_row(outcome, found) for outcome in found.table)
    yield t.table(("", "slots", "busy", "in-SLA", "P95-total", "P95-wait", "P99-wait", "longest-queue"), rows,
                  right="slots busy in-SLA P95-total P95-wait P99-wait longest-queue")  # fmt: skip
    yield ""
    yield f"processes   {found.processes}, {found.slots} slots together, about {found.memory_mb} MB"
    yield f"queue       QUEUE_MAX_SIZE={found.max_size}: who is let in waits no longer than asked"
    if found.backlog_s is not None:
        gone = t.seconds(found.backlog_s) if found.backlog_s < 1e9 else "never: too few slots"
        yield f"backlog     gone after {gone}"
    if found.cost_month_usd is not None:
        yield f"cost        ${found.cost_month_usd:,.2f} a month of 30 days"
    for limit in found.limits:
        mark = click.style("binds", fg="red") if limit.share > 1 else "fits"
        asked = f"{limit.needed:.0f} of {limit.allowed:.0f} ({limit.share:.0%})"
        yield f"limit       {limit.model} {limit.what}: {asked} {mark}"


def _row(o: Outcome, found: Plan) -> tuple[str, ...]:
    mark = "=>" if found.chosen is not None and o.slots == found.chosen.slots else ""
    spans = (t.seconds(s) for s in (o.p95_s, o.wait_p95_s, o.wait_p99_s))
    return mark, str(o.slots), f"{o.utilisation:.0%}", f"{o.in_sla:.2%}", *spans, str(o.waiting_max)
