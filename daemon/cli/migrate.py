"""`python -m daemon migrate`: bring the database to the schema of this release."""

from __future__ import annotations

import asyncio
import json
import sys

import click

from daemon.config import PostgresSettings, load
from daemon.domain.errors import ConfigError, DependencyAway
from daemon.store import migrate

EXIT_AWAY = 75
EXIT_CONFIG = 78


@click.command("migrate", help="Apply the migrations that this database lacks; safe to run again and at the same time.")
@click.option("--status", "only_status", is_flag=True, help="Only say what was applied and what is pending.")
@click.option("--force", is_flag=True, help="Also apply what does not suit daemons and gateways that are connected.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, only_status: bool, force: bool, as_json: bool) -> None:
    """Exit 0 when the schema is (or, with --status, was asked about); 75 Postgres away; 78 history does not fit."""
    try:
        answer = asyncio.run(_run(load().postgres, only_status=only_status, force=force))
    except ConfigError as error:
        _fail(error.mistakes, EXIT_CONFIG)
    except DependencyAway as error:
        _fail([str(error)], EXIT_AWAY)
    else:
        click.echo(json.dumps(answer) if as_json else _text(answer))


async def _run(settings: PostgresSettings, *, only_status: bool, force: bool) -> dict[str, list[str]]:
    if settings.url is None:
        raise ConfigError(["DATABASE_URL is missing: postgresql://user:password@host:5432/database"])
    url = settings.url.get_secret_value()
    applied_now = [] if only_status else await migrate.migrate(url, force=force)
    now = await migrate.status(url)
    contracting = {m.name for m in migrate.load_migrations() if not m.expands}
    breaking = [name for name in now.pending if now.applied and name in contracting]
    return {
        "applied_now": applied_now,
        "applied": list(now.applied),
        "pending": list(now.pending),
        "breaking": breaking,
    }


def _text(answer: dict[str, list[str]]) -> str:
    lines = [f"applied now  {name}" for name in answer["applied_now"]]
    lines += [f"applied      {name}" for name in answer["applied"] if name not in answer["applied_now"]]
    breaking = "  (no older release can work on its schema: stop all of them first)"
    lines += [f"pending      {name}{breaking if name in answer['breaking'] else ''}" for name in answer["pending"]]
    if not answer["applied_now"] and not answer["pending"]:
        lines.append("up to date: nothing to do")
    return "\n".join(lines)


def _fail(lines: list[str], status: int) -> None:
    for line in lines:
        click.echo(f"migrate: {line}", err=True)
    sys.exit(status)
