"""`python -m daemon check`: would this configuration start? Touches no server."""

from __future__ import annotations

import sys
from typing import Any

import click

from daemon.admin.config_check import Findings, check_config
from daemon.cli import terminal as t

EX_CONFIG = 78


@click.command(
    "check", epilog="Examples:  python -m daemon check   |   check --role relay   |   check --json | jq .mistakes"
)
@click.option(
    "--role", type=click.Choice(["relay", "gateway", "daemon"]), help="Also what this process can't do without."
)
@click.option("--all", "everything", is_flag=True, help="Print settings that have their default, too.")
@t.as_json
def command(*, role: Any, everything: bool, as_json: bool) -> None:
    """Read every setting and the services file; name all mistakes at once.

    Asks no server: `doctor` does. Exit 0 when a process would start with this, 78 when not.
    """
    found = check_config(role)
    t.no_colour(found.no_color)
    if as_json:
        t.emit(found)
    else:
        _print(found, everything=everything)
    sys.exit(EX_CONFIG if found.mistakes else 0)


def _print(found: Findings, *, everything: bool) -> None:
    shown = [entry for entry in found.settings if everything or entry["source"] != "default"]
    if shown:
        rows = ((e["name"], e["source"], _text(e["value"]), e["unit"]) for e in shown)
        click.echo(t.table(("SETTING", "from", "value", "unit"), rows) + "\n")
    if found.services_file:
        click.echo(f"services  {t.safe(found.services_file)}")
        for kind, names in (("services", found.services), ("models", found.models), ("queues", found.queues)):
            click.echo(f"          {len(names)} {kind}: {t.safe(', '.join(names))}")
    for warning in found.warnings:
        click.echo(click.style("warning   ", fg="yellow") + t.safe(warning))
    for mistake in found.mistakes:
        click.echo(click.style("mistake   ", fg="red") + t.safe(mistake))
    if not found.mistakes:
        click.echo(click.style("ok        ", fg="green") + "a process would start with this; `doctor` asks the servers")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
