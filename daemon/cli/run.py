"""`python -m daemon run --queues …`: the daemon."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from daemon import config
from daemon.observability.logging import begin


@click.command("run")
@click.option("--queues", required=True, metavar="Q,Q", help="Names of the queues to consume, separated by commas.")
@click.option("--quarantine", hidden=True, help="Given by a daemon to its children: the name that they take.")
def command(queues: str, quarantine: str | None) -> None:
    """Consume queues until SIGTERM; a second signal hands running tasks back at once."""
    if quarantine is not None:
        _run_quarantined(queues, quarantine)
    settings = config.load(role="daemon")
    begin(settings)
    names = [name.strip() for name in queues.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("name at least one queue", param_hint="--queues")
    import uvloop

    from daemon.processes.consumer import run_daemon

    uvloop.run(run_daemon(settings, names))


def _run_quarantined(queue: str, nonce: str) -> NoReturn:
    """One task in a process of its own, the first that the kernel ends when memory is short."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", "ascii")
    settings = config.load(role="daemon")
    begin(settings)
    import uvloop

    from daemon.processes.quarantined import run_quarantined

    sys.exit(uvloop.run(run_quarantined(settings, queue, nonce)))
