"""`python -m daemon run --queues …`: the daemon."""

from __future__ import annotations

import click

from daemon import config
from daemon.observability.logging import begin


@click.command("run")
@click.option("--queues", required=True, metavar="Q,Q", help="Names of the queues to consume, separated by commas.")
def command(queues: str) -> None:
    """Consume queues until SIGTERM; a second signal hands running tasks back at once."""
    settings = config.load(role="daemon")
    begin(settings)
    names = [name.strip() for name in queues.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("name at least one queue", param_hint="--queues")
    import uvloop

    from daemon.processes.consumer import run_daemon

    uvloop.run(run_daemon(settings, names))
