"""`python -m daemon doctor`: what is wrong around here, and how to put it right."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import click

from daemon import config
from daemon.admin.checkup.finding import Finding, Level, info
from daemon.admin.doctor import configuration, examine
from daemon.cli import terminal as t
from daemon.domain.errors import ConfigError

_COLOURS: dict[Level, str] = {"ok": "green", "info": "cyan", "warning": "yellow", "error": "red"}
_TROUBLES: tuple[Level, Level] = ("error", "warning")


@click.command(
    "doctor",
    epilog="Examples:  python -m daemon doctor   |   doctor --providers   |   doctor --json | jq '.findings[].cure'",
)
@click.option(
    "--providers", is_flag=True, help="Also list each provider's models: tries key and distance, costs nothing."
)
@click.option("--strict", is_flag=True, help="Exit 1 for warnings, too.")
@click.option("--quiet", is_flag=True, help="Only what needs a cure.")
@t.as_json
def command(*, providers: bool, strict: bool, quiet: bool, as_json: bool) -> None:
    """Settings, Redis, Postgres, queues, host, systemd, and a signed call to WORKER_BASE_URL.

    Changes nothing. Exit 0 when there is no error, 1 when there is one (with --strict: or a warning).
    """
    found = configuration()
    try:
        settings = config.load()
        t.no_colour(settings.runtime.no_color)
        found += t.run(examine(settings, providers=providers))
    except ConfigError:
        found.append(info("doctor", "servers were not asked", "correct the settings above, then ask again"))
    levels = Counter(finding.level for finding in found)
    bad = levels["error"] + (levels["warning"] if strict else 0)
    if as_json:
        t.emit({"ok": not bad, "levels": dict(levels), "findings": t.plain(found)})
    else:
        click.echo("\n".join(_lines([f for f in found if f.level in {"warning", "error"} or not quiet])))
        errors, warnings = (f"{levels[of]} {of}{'' if levels[of] == 1 else 's'}" for of in _TROUBLES)
        click.echo(f"\n{errors}, {warnings}, {levels['ok']} fine.")
    sys.exit(t.EXIT_FAILED if bad else 0)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    widest = max((len(finding.check) for finding in found), default=0)
    indent = " " * (9 + widest)
    for finding in found:
        head = f"{click.style(f'{finding.level:<7}', fg=_COLOURS[finding.level])} {finding.check:<{widest}} "
        text = click.wrap_text(t.safe(finding.text), t.width(), indent, indent).lstrip()
        yield f"{head}{text}"
        if finding.cure:
            yield click.wrap_text(f"-> {t.safe(finding.cure)}", t.width(), indent, f"{indent}   ")
