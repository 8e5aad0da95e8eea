"""Tables, times, and text that no terminal obeys."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner

from daemon.cli import cli
from daemon.cli import terminal as t
from daemon.domain.errors import RedisAway


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 columns, whatever terminal runs the tests."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\x9b31m",
        "a\rb",
        "a\x08b",
        "\u202egnp.exe",
        "\u2066x",
        "\x00",
        "\x7f",
        "\u2028",
        "\ud800",
    ],
)
def test_nothing_from_outside_is_obeyed_by_a_terminal(hostile: str) -> None:
    """Escapes, carriage returns, direction marks, line separators, lone surrogates."""
    shown = t.safe(f"before{hostile}after")
    assert shown.startswith("before") and shown.endswith("after")
    assert "�" in shown
    assert not set(shown) & set("\x1b\x9b\r\x08\u202e\u2066\x00\x7f\u2028")


def test_text_of_people_stays_as_it_is() -> None:
    """Chinese, accents, emoji; line breaks where lines are wanted."""
    assert t.safe("简历 Résumé 🙂") == "简历 Résumé 🙂"
    assert t.safe("a\n\tb", lines=True) == "a\n\tb"
    assert t.safe("a\nb") == "a�b"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (60, "1 m"), (185, "3 m 05 s"),
        (3600, "1 h"), (7800, "2 h 10 m"), (90_000, "1 d 01 h"), (-5, "-5.0 s"),
    ],
)  # fmt: skip
def test_durations_are_read_at_a_glance(value: float | None, shown: str) -> None:
    assert t.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(950, "950"), (1428, "1.4k"), (12_000, "12k"), (3_400_000, "3.4M"), (2 * 10**9, "2.0G")]
)
def test_counts_stay_short(value: int, shown: str) -> None:
    assert t.short(value) == shown


def test_a_table_aligns_wide_characters_and_colours() -> None:
    """Neither an escape nor a Chinese character shifts the next column."""
    made = t.table(("NAME", "n"), [("简历", "1"), (click.style("ab", fg="red"), "22")], right="n")
    assert click.unstyle(made).splitlines() == ["NAME   n", "简历   1", "ab    22"]


def test_a_table_is_cut_to_the_terminal_but_never_its_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that is cut can't be copied."""
    monkeypatch.setenv("COLUMNS", "40")
    made = click.unstyle(
        t.table(("TASK", "service"), [("task-0123456789-0123", "a-very-long-service-name")], keep="TASK")
    )
    assert made.splitlines()[1] == "task-0123456789-0123  a-very-long-servi…"
    narrow = click.unstyle(t.table(("TASK", "service"), [("t" * 64, "a-very-long-service-name")], keep="TASK"))
    assert narrow.splitlines()[1] == "t" * 64 + "  a-ve…", "what can't fit stays readable"


def test_a_bar_is_full_when_all_is_used() -> None:
    assert (t.share(0, 4, 4), t.share(2, 4, 4), t.share(9, 4, 4), t.share(1, 0, 4)) == ("····", "██··", "████", "····")


@dataclass(frozen=True, slots=True)
class _Thing:
    name: str


def test_json_takes_dataclasses(capsys: pytest.CaptureFixture[str]) -> None:
    t.emit({"things": t.plain([_Thing("é")])})
    t.emit_line(_Thing("x"))
    out = capsys.readouterr().out
    assert json.loads(out.rpartition('{"name": "x"}')[0]) == {"things": [{"name": "é"}]}
    assert out.endswith('{"name": "x"}\n')


def test_an_end_has_a_line_a_hint_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        t.fail("broken\x1b[2J", "do this", 78)
    assert end.value.code == 78
    assert click.unstyle(capsys.readouterr().err) == "error: broken�[2J\nhint: do this\n"


def test_an_interrupt_ends_with_130() -> None:
    """As shells expect after Ctrl-C."""

    async def interrupted() -> None:
        raise asyncio.CancelledError

    with pytest.raises(SystemExit) as end:
        t.run(interrupted())
    assert end.value.code == t.INTERRUPTED


def test_trouble_of_a_side_task_is_told_as_itself() -> None:
    """Not as a tree of groups."""

    async def work() -> None:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [RedisAway("gone")])])

    with pytest.raises(RedisAway, match="gone"):
        t.run(work())


@pytest.mark.parametrize("noun", ["queues", "tasks", "dlq", "models"])
def test_a_noun_without_a_verb_lists(noun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m daemon queues --json` is what one types first; `--help` and verbs stay what they are."""
    command = cli.get_command(click.Context(cli), noun)
    assert isinstance(command, click.Group)
    listed: list[dict[str, Any]] = []
    monkeypatch.setattr(command.commands["list"], "callback", lambda **given: listed.append(given))
    for arguments in ([], ["--json"], ["list", "--json"]):
        assert CliRunner().invoke(cli, [noun, *arguments]).exit_code == 0
    assert [given["as_json"] for given in listed] == [False, True, True]
    assert "Usage:" in CliRunner().invoke(cli, [noun, "--help"]).output
    assert CliRunner().invoke(cli, [noun, "lst"]).exit_code == 2


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_to_people_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar on a terminal; nothing at all in a pipe."""
    screen, pipe = _Screen(), io.StringIO()
    for stream in (screen, pipe):
        monkeypatch.setattr(sys, "stderr", stream)
        with t.progress(400, "purging q_paid_stream") as told:
            told(200)
            told(200)
    assert "purging q_paid_stream" in screen.getvalue()
    assert "400/400" in screen.getvalue()
    assert pipe.getvalue() == ""
