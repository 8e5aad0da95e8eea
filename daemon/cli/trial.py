"""`python -m daemon try`: does it work with the real servers? The first command after the settings are there."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from daemon import config
from daemon.admin.trial.model_calls import Calls
from daemon.admin.trial.plan import COST_MAX_USD, cost_max_usd
from daemon.admin.trial.result import Result
from daemon.admin.trial.run import PARTS, Trial, exit_code, prepare, write
from daemon.cli import terminal as t
from daemon.config.types import parts_of_secret
from daemon.domain.clock import SystemClock
from daemon.observability.logging import configure

_COLOURS: Final = {"works": "green", "works, but": "yellow", "fails": "red", "skipped": "cyan"}


@click.command(
    "try",
    epilog="Examples:  python -m daemon try   |   try --yes --skip models   |   try --model gpt   |   try --json --yes",
)
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Only this modelId (again for more).")
@click.option("--skip", multiple=True, type=click.Choice(PARTS), help="Leave this part out (again for more).")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Where the transcript goes; else a new "
              "directory here.")  # fmt: skip
@t.as_json
def command(*, yes: bool, models: tuple[str, ...], skip: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """One streamed and one JSON call of each model, probes of Redis and Postgres, one signed call to the relay.

    Costs less than $0.01, says first what it will do, and asks. Writes what came back, without keys and ids, to a
    directory that can be sent to somebody. Exit 0 when all works, 75 when something can't be reached and nothing else
    is wrong, 1 when something is wrong.
    """
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    configure(settings.runtime, stream=io.StringIO())  # the table says what log lines would say
    trial = prepare(settings, models, skip)
    directory = out or Path(f"qstreamd-try-{time.strftime('%Y%m%d-%H%M%S')}")
    for line in _announced(trial, directory):
        click.echo(line, err=as_json)
    if not yes:
        _ask()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{directory} can't be made ({error.strerror}): --out names another place") from error
    calls = Calls(settings.providers, SystemClock())
    results = t.run(_results(trial, calls, as_json=as_json))
    files = write(directory, settings, results, calls)
    code = exit_code(results)
    if as_json:
        spent = [r.cost_usd for r in results if r.cost_usd is not None]
        t.emit({"ok": code == 0, "costUsd": sum(spent), "costMaxUsd": cost_max_usd(trial.planned),
                "results": t.plain(results), "transcript": str(directory), "files": files})  # fmt: skip
    else:
        _summarise(results, directory)
    sys.exit(code)


def _ask() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: --yes goes on without asking")
    if not click.confirm("Go on?", err=True):
        click.echo("nothing was done", err=True)
        sys.exit(t.EXIT_FAILED)


def _announced(trial: Trial, directory: Path) -> Sequence[str]:
    """What will happen, before it does."""
    s, lines = trial.settings, ["This will:"]
    if "redis" in trial.parts:
        lines.append(
            f"  ask Redis at {_place(s.redis.url.get_secret_value())}: a few keys below q_try_…, deleted again"
        )
    if "postgres" in trial.parts and s.postgres.url is not None:
        lines.append(f"  ask Postgres at {_place(s.postgres.url.get_secret_value())}: reads only")
    if "qstash" in trial.parts and s.relay.base_url is not None:
        by = "by ourselves and through QStash (one message)" if s.qstash.token is not None else "by ourselves"
        lines.append(f"  call {s.relay.base_url}/api/worker/check, signed {by}: nothing is queued")
    called = [p for p in trial.planned if p.output_tokens] if "models" in trial.parts else []
    lines += [
        f"  call {p.model.id} ({p.model.provider} {p.model.name}) twice, {p.output_tokens} tokens at most: "
        f"${p.cost_max_usd:.4f} at most"
        for p in called
    ]
    if called:
        lines.append(f"  together ${cost_max_usd(called):.4f} at most (never above ${COST_MAX_USD:g})")
    lines.append(f"  write what came back to {directory}/, without keys and account ids")
    return [t.safe(line) for line in lines]


def _place(url: str) -> str:
    """The address without user, password and parameters."""
    plain = url.partition("?")[0]
    for secret in parts_of_secret(url):
        plain = plain.replace(secret, "***")
    return plain.rpartition("@")[2].partition("://")[2] or plain.rpartition("@")[2]


async def _results(trial: Trial, calls: Calls, *, as_json: bool) -> list[Result]:
    found = []
    async for result in trial.run(calls):
        found.append(result)
        if not as_json:
            _show(result)
    return found


def _show(result: Result) -> None:
    state = click.style(f"{result.state:<11}", fg=_COLOURS[result.state])
    head = f"{result.part:<9}{t.cut(t.safe(result.what), 34):<35}"
    indent = " " * 55
    click.echo(
        f"{state}{head}" + click.wrap_text(t.safe(result.text), t.width(), "", indent, preserve_paragraphs=False)
    )
    if result.cure:
        click.echo(click.wrap_text(f"-> {t.safe(result.cure)}", t.width(), indent[:11], f"{indent[:11]}   "))


def _summarise(results: Sequence[Result], directory: Path) -> None:
    words = {"works": "work", "works, but": "work with a but", "fails": "fail", "skipped": "skipped"}
    counted = [f"{sum(r.state == state for r in results)} {word}" for state, word in words.items()]
    spent = sum(r.cost_usd or 0.0 for r in results)
    click.echo(f"\n{', '.join(counted)}; ${spent:.4f} spent, as far as it is known.")
    click.echo(f"transcript: {directory}/  (look through it, then send it back)")
