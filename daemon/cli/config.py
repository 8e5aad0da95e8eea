"""`python -m daemon config`: every setting with its value, where that came from and its unit; secrets masked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import click

from daemon.config import describe, load
from daemon.config.shown import Described, text_of
from daemon.processes.rooms import optional


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
@click.option("--role", type=click.Choice(["relay", "gateway", "daemon"]), help="Also ask what it can't do without.")
@click.option("--docs", is_flag=True, help="Print docs/settings.md: all settings with defaults and reasons.")
def command(as_json: bool, role: Any, docs: bool) -> None:  # noqa: FBT001  # click's flags
    """Print each setting, its source and its unit, secrets masked; or every mistake, with exit code 78."""
    if docs:
        page = optional("contract_docs.settings_page")
        if page is None:
            raise click.ClickException("this build can't make pages: `daemon.contract_docs` was left out")
        click.echo(page.render_docs(), nl=False)
        return
    settings = load(role=role)
    if as_json:
        click.echo(json.dumps([entry._asdict() for entry in describe(settings)], indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_table(describe(settings))))
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)


def _table(entries: Iterable[Described]) -> Iterator[str]:
    """One line a setting: name, source, value with its unit; grouped."""
    for group, members in groupby(entries, key=lambda entry: entry.group):
        yield click.style(f"[{group}]", bold=True)
        for entry in members:
            unit = entry.unit if entry.value is not None else ""
            yield f"{entry.name:<38} {entry.source:<12} {text_of(entry.value)} {unit}".rstrip()
        yield ""
