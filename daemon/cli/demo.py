"""`python -m daemon demo`: the whole way of a task on embedded servers, for people to look at."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from typing import TYPE_CHECKING, Final

import click

from daemon import config

if TYPE_CHECKING:
    from rich.console import Console

    from daemon.dev.demo.real import Real
    from daemon.dev.demo.show import Trouble

INTERRUPTED: Final = 130
#: what the extra `demo` brings beside the servers
_NEEDED: Final = ("rich",)


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave all running afterwards; prints addresses and a curl. Ctrl-C ends it.")
@click.option("--plain", is_flag=True, help="Lines instead of a live view; the default without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout at the end, the view on stderr.")
@click.option("--real", "provider", type=click.Choice(["deepseek", "openai", "gemini"]), help="One task on this real "
              "provider, with its key from the environment, for less than $0.01; all else is embedded.")  # fmt: skip
@click.option("--yes", is_flag=True, help="With --real: do not ask first.")
@click.option("--follow", metavar="TASK", help="Only print the events of that task in REDIS_URL, one JSON line each.")
def command(*, keep: bool, plain: bool, as_json: bool, provider: str | None, yes: bool, follow: str | None) -> None:
    """Start all parts, send tasks to all six queues through signed calls, watch them, and check what became of them.

    Uses REDIS_URL and DATABASE_URL where they are set and nobody else works there, else servers of its own.
    Exit 0 only if every task ended as it should, 1 if not, 130 after Ctrl-C.
    """
    settings = config.load()
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise click.ClickException("the demo needs more packages: pip install 'qstreamd[demo]', or make demo")
    try:
        if follow is not None:
            from daemon.dev.demo.staying import follow as follow_task

            asyncio.run(follow_task(settings.redis, follow, click.echo))
            return
        real = None if provider is None else _real(settings, provider, keep=keep, yes=yes)
        good = _demo(settings, keep=keep, plain=plain, as_json=as_json, real=real)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(0 if keep else INTERRUPTED)
    sys.exit(0 if good else 1)


def _real(settings: config.Settings, provider: str, *, keep: bool, yes: bool) -> Real:
    """What will be asked of the provider, once somebody has said yes."""
    from daemon.dev.demo.real import real

    if keep:
        raise click.UsageError("--real is for one task: --keep would go on calling the provider")
    found = real(settings, provider)
    most = f"{found.output_tokens} tokens and ${found.cost_max_usd:.4f} at most"
    click.echo(f"One task on {found.model.name} of {provider}: {most}.", err=True)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: --yes goes on without asking")
    if not yes and not click.confirm("Go on?", err=True):
        sys.exit(1)
    return found


def _demo(settings: config.Settings, *, keep: bool, plain: bool, as_json: bool, real: Real | None) -> bool:
    from rich.console import Console

    from daemon.dev.demo.show import Choice, Trouble, show

    console = Console(stderr=as_json)
    live = console.is_terminal and not plain and settings.runtime.no_color is None
    try:
        return asyncio.run(show(Choice(live=live, json=as_json, keep=keep, real=real), settings, console))
    except Trouble as trouble:
        _complain(console, trouble)
        return False


def _complain(console: Console, trouble: Trouble) -> None:
    from rich.text import Text

    console.print(Text(f"\n✗ {trouble}", "bold red"))
    for line in trouble.words.splitlines():
        console.print(Text(f"  │ {line}", "dim"), soft_wrap=True)
    console.print(Text(f"  {trouble.hint}"), soft_wrap=True)
