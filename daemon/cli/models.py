"""`python -m daemon models …`: what all daemons know of the models; block one by hand, or unblock it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from daemon import config
from daemon.admin.connections import Connections
from daemon.admin.orders import order_model
from daemon.cli import aliases
from daemon.cli import terminal as t
from daemon.cli.tasks import span_s
from daemon.limiter.models import ModelState, ModelStates


@click.group(
    "models", cls=t.Noun, epilog="Example:  python -m daemon models block gpt --for 15m --reason 'incident 4711'"
)
def command() -> None:
    """Models as all daemons see them: unavailable after a refusal or by order, breaker, reduced concurrency, rates."""


@command.command("list")
@t.as_json
def list_models(*, as_json: bool) -> None:
    """All models of the services file."""
    found = t.run(_look())
    if as_json:
        t.emit(found)
        return
    head = ("MODEL", "state", "for", "running", "slowed to", "waiting", "owes requests", "owes tokens")
    click.echo(t.table(head, map(_row, found), right="waiting", keep="MODEL"))


@click.command("block")
@click.argument("model")
@click.option("--for", "for_s", required=True, metavar="15m", callback=span_s, help="How long: s, m, h, d.")
@click.option("--reason", default="blocked by hand", show_default=True)
def block(*, model: str, for_s: float, reason: str) -> None:
    """Let no call of MODEL begin; tasks use a fallback, or wait without using up an attempt."""
    t.run(_order(model, "model.block", reason, lambda models: models.block(model, for_s, reason)))
    click.echo(f"{model}: blocked for {t.seconds(for_s)}")


@click.command("unblock")
@click.argument("model")
@click.option("--reason", default="")
def unblock(*, model: str, reason: str) -> None:
    """Make MODEL available again, whatever made it unavailable."""
    t.run(_order(model, "model.unblock", reason, lambda models: models.unblock(model)))
    click.echo(f"{model}: available")


aliases.add(command, block, "close")
aliases.add(command, unblock, "open")


async def _look() -> list[ModelState]:
    async with Connections(_settings()) as at:
        return await ModelStates(at.scripts).read(list(at.catalog.models))


async def _order(model: str, action: str, reason: str, order: Callable[[ModelStates], Any]) -> None:
    async with Connections(_settings()) as at:
        if model not in at.catalog.models:
            t.fail(f"model {model!r} is not known", f"known: {', '.join(at.catalog.models)}", 2)
        await at.require_ours()
        if not await order_model(at, model, action, reason, order):
            t.hint(f"not in the audit log: Postgres {at.no_store}")


def _settings() -> config.Settings:
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    return settings


def _row(m: ModelState) -> tuple[str, ...]:
    if m.cooldown_reason:
        state, for_s = click.style(f"unavailable: {t.safe(m.cooldown_reason)}", fg="red"), m.cooldown_s
    elif m.breaker != "closed":
        state, for_s = click.style(f"breaker {m.breaker}", fg="yellow"), m.breaker_s
    else:
        state, for_s = f"available ({m.failures} failed)" if m.failures else "available", None
    running = " ".join(f"{tier}={count}" for tier, count in m.running.items())
    slowed = " ".join(f"{tier}={limit}" for tier, limit in m.slowed_to.items()) or "-"
    owes = (t.seconds(s) if s else "-" for s in (m.rpm_owed_s, m.tpm_owed_s))
    return m.model, state, t.seconds(for_s), running, slowed, str(m.waiting), *owes
