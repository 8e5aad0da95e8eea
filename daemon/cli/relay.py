"""`python -m daemon relay`: the relay process."""

from __future__ import annotations

import click

from daemon import config


@click.command("relay")
def command() -> None:
    """Take QStash's calls until SIGTERM. Redis may be away: calls get 503 until it is there.

    Exit 0 after a stop, 75 when the address is taken, 78 for a bad configuration or a Redis of another environment.
    """
    settings = config.load(role="relay")
    from daemon.processes.relay import run_relay

    run_relay(settings)
