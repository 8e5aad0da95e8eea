"""`python -m daemon gateway`: the gateway process."""

from __future__ import annotations

import click

from daemon import config


@click.command("gateway")
def command() -> None:
    """Take tasks from servers and show them to browsers until SIGTERM.

    Exit 0 after a stop, 75 when Redis, Postgres or the address can't be had, 78 for a bad configuration.
    """
    settings = config.load(role="gateway")
    from daemon.processes.gateway import run_gateway

    run_gateway(settings)
