"""`python -m daemon rollover`: the release in force replaces the one that runs, without a pause."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from daemon import config
from daemon.admin.rollover import Outcome, Refused, Rollover
from daemon.admin.systemctl import Files, Systemctl
from daemon.cli import terminal as t

LOCK: Final = Path("/run/qstreamd-rollover.lock")
PAUSES: Final = (0.5, 2.0)  #: between two looks at a unit; for which both read
SYSTEMD: Final = Path("/run/systemd/system")
_EX_TEMPFAIL: Final = 75
_DONE: Final = {
    "rolled": "replaced the old one", "resumed": "finished an earlier rollover", "current": "ran already",
    "started": "started; nothing ran before",
}  # fmt: skip


@click.command("rollover", epilog="Examples:  qstreamd rollover   |   qstreamd rollover paid   |   rollover --again")
@click.argument("names", nargs=-1)
@click.option("--again", is_flag=True, help="Also where the release in force runs already: for changed settings.")
@click.option("--force", is_flag=True, help="Although memory for two daemons is short.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the old ones have drained.")
@t.as_json
def command(*, names: tuple[str, ...], again: bool, force: bool, no_wait: bool, as_json: bool) -> None:
    """Start the release in force beside each running daemon; when it is ready, the old one stops reading and drains.

    NAMES are instances as in /etc/qstreamd/NAME.env; without any, all that run. A name that does not run is started.
    Runs on the host itself, as root, with systemd. Safe to run again: what was cut off is finished.
    """
    t.no_colour(config.load().runtime.no_color)
    if not SYSTEMD.is_dir():
        t.fail("systemd does not run this host", "containers: start the new one, wait for its health, stop the old", 2)
    if os.geteuid() != 0:
        t.fail("rollover starts and stops units, which needs root", "sudo qstreamd rollover", 2)
    rollover = Rollover(Systemctl(), Files(), _say, force=force, again=again, wait=not no_wait)
    rollover.poll_s, rollover.settle_s = PAUSES
    with _alone():
        try:
            outcomes, behind = t.run(_roll(rollover, names))
        except Refused as refused:
            t.fail(str(refused), refused.cure, refused.code)
    if as_json:
        t.emit({"rolled_over": t.plain(outcomes), "behind": behind})
        return
    rows = [
        (o.name, o.unit, o.release, _DONE[o.action], t.seconds(o.ready_s), t.seconds(o.drained_s)) for o in outcomes
    ]
    if rows:
        click.echo(t.table(("name", "runs", "release", "what", "ready", "drained"), rows, right="ready drained"))
    else:
        click.echo("No daemon runs.")
        t.hint("start one: qstreamd rollover NAME, with its settings in /etc/qstreamd/NAME.env")
    if behind:
        t.hint(f"still of an older release: systemctl restart {' '.join(behind)}")


async def _roll(rollover: Rollover, names: tuple[str, ...]) -> tuple[list[Outcome], list[str]]:
    return await rollover.run(names), await rollover.behind()


@contextmanager
def _alone() -> Iterator[None]:
    """One at a time: two would start and stop the same units."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            t.fail("another rollover runs on this host", "wait until it has ended, then run this again", _EX_TEMPFAIL)
        yield


def _say(line: str) -> None:
    click.echo(t.safe(line), err=True)
