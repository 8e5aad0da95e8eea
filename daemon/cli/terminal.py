"""What commands print with: tables that fit, times people read, nothing that a terminal would obey.

Text that came from outside (models, users, providers, other processes) goes through `safe`: an escape sequence in an
answer must not move a cursor, set a title or fill a clipboard.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import unicodedata
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

import click

T = TypeVar("T")

EXIT_FAILED: Final = 1  #: asked and answered: no
INTERRUPTED: Final = 130  #: Ctrl-C
WIDTH_LEAST: Final = 40
COLUMN_LEAST: Final = 5
#: shown instead of a control character; direction marks too, which could make one text look like another
_BIDI: Final = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for programs.")


class Noun(click.Group):
    """A group that lists when no verb is said: `queues --json` is `queues list --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with `list` before those that name no verb."""
        verbless = not args or (args[0].startswith("-") and args[0] not in self.get_help_option_names(ctx))
        if verbless and not ctx.resilient_parsing:  # a shell that completes wants the verbs
            args = ["list", *args]
        return super().parse_args(ctx, args)


def safe(text: object, *, lines: bool = False) -> str:
    """`text` without anything a terminal would obey; with `lines` its line breaks and tabs stay."""
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or _harmless(c) else "�" for c in str(text))


def _harmless(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"} and ord(character) not in _BIDI


def no_colour(setting: str | None) -> None:
    """Heed NO_COLOR for everything that this command prints."""
    if setting is not None:
        click.get_current_context().color = False


def emit(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def emit_line(value: Any) -> None:
    """One JSON object on a line of its own."""
    click.echo(json.dumps(plain(value), ensure_ascii=False))


def plain(value: Any) -> Any:
    """Dataclasses as dicts, so that `json` can write them."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def hint(text: str) -> None:
    """What to do next, on stderr."""
    click.echo(click.style("hint: ", fg="cyan") + text, err=True)


def fail(message: str, advice: str = "", code: int = EXIT_FAILED) -> NoReturn:
    """End with `code`, an error line and what to do about it."""
    click.echo(click.style("error: ", fg="red") + safe(message), err=True)
    if advice:
        hint(advice)
    sys.exit(code)


def run(work: Coroutine[Any, Any, T]) -> T:
    """The answer of `work`; Ctrl-C ends the command with 130 and no stack."""
    try:
        return asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
    except BaseExceptionGroup as group:  # a side task's trouble is the command's: said in one line, not as a tree
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


@contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that grows by what it is told; where stderr is no terminal, nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True) as bar:
        yield bar.update


# --- tables -------------------------------------------------------------------------------------------------------


def width() -> int:
    """Columns of the terminal; 120 where there is none, so that pipes and tests see the same."""
    return max(WIDTH_LEAST, shutil.get_terminal_size((120, 40)).columns)


def cells(text: str) -> int:
    """How many columns `text` takes: East Asian wide characters take two."""
    plain = click.unstyle(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in plain)


def cut(text: str, most: int) -> str:
    """`text`, unstyled and ended with … when it would take more than `most` columns."""
    if cells(text) <= most:
        return text
    kept, used = "", 0
    for character in click.unstyle(text):
        used += cells(character)
        if used > most - 1:
            break
        kept += character
    return kept + "…"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "", keep: str = "") -> str:
    """Aligned columns. `right` names those that are numbers, `keep` those that are ids; others are cut to what fits."""
    body = [[str(cell) for cell in row] for row in rows]
    columns = [max(cells(line[at]) for line in [list(head), *body]) for at in range(len(head))]
    numbers = {at for at, name in enumerate(head) if name in right.split()}
    cuttable = [at for at, name in enumerate(head) if at not in numbers and name not in keep.split()]
    while cuttable and sum(columns) + 2 * (len(columns) - 1) > width():
        widest = max(cuttable, key=lambda at: columns[at])
        if columns[widest] <= COLUMN_LEAST:
            break
        columns[widest] -= 1
    lines = [_line([click.style(name, dim=True) for name in head], columns, numbers)]
    lines += [_line(line, columns, numbers) for line in body]
    return "\n".join(lines)


def _line(line: Sequence[str], columns: Sequence[int], numbers: set[int]) -> str:
    parts = []
    for at, text in enumerate(line):
        shown = cut(text, columns[at])
        space = " " * (columns[at] - cells(shown))
        parts.append(space + shown if at in numbers else shown + space)
    return "  ".join(parts).rstrip()


def seconds(value: float | None) -> str:
    """A duration: `0.4 s`, `12 s`, `3 m 05 s`, `2 h 10 m`, `3 d 4 h`; `-` for none."""
    if value is None:
        return "-"
    if value < 0:
        return f"-{seconds(-value)}"
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    for big, small, letters in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= big:
            rest = whole % big // small
            return f"{whole // big} {letters[0]}" + (f" {rest:02d} {letters[1]}" if rest else "")
    return f"{whole} s"


def moment(at: float) -> str:
    """A point in time, as `2026-11-27T12:41:03.250Z`."""
    return datetime.fromtimestamp(float(at), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def short(number: int) -> str:
    """A count in at most five characters: `950`, `1.4k`, `12M`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}" if number < 10 * size else f"{number // size}{letter}"
    return str(number)


def share(part: int, whole: int, columns: int = 10) -> str:
    """A bar."""
    filled = min(columns, round(columns * part / whole)) if whole > 0 else 0
    return "█" * filled + "·" * (columns - filled)
