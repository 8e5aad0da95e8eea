"""Log lines: what they look like, and what never gets into one."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog  # noqa: TID251  # to see that nothing of it is configured

from daemon.config import RuntimeSettings, load
from daemon.config.types import SecretStr
from daemon.domain.errors import RedisAway, Rejected
from daemon.observability import redaction
from daemon.observability.logging import begin, bind_attempt, configure, debugging, logger

PROMPT = "Review this résumé for the post of a nurse"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging is one for the whole process: put it back."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    configure(RuntimeSettings())
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def lines() -> Lines:
    """What was logged so far, from a configured log of all levels."""
    stream = io.StringIO()
    configure(RuntimeSettings(log_level="debug"), ["configured-secret"], stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


log = logger("tests.log")


def test_a_line_is_one_json_object_with_time_level_event_and_fields(lines: Lines) -> None:
    """In this order, so that people can read it too."""
    log.info("attempt.finished", outcome="done", total_s=1.5, tokens=12, cached=None, streamed=True)
    (line,) = lines()
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info", "event": "attempt.finished", "outcome": "done", "total_s": 1.5, "tokens": 12, "cached": None,
        "streamed": True, "logger": "tests.log",
    }  # fmt: skip


def test_a_logger_made_before_configuration_follows_it(lines: Lines) -> None:
    """Module level loggers are made at import; the last `configure` holds, also after the first line."""
    log.debug("first.line")
    second = io.StringIO()
    configure(RuntimeSettings(log_level="error"), stream=second)
    log.warning("second.line")
    log.error("third.line")
    assert [line["event"] for line in lines()] == ["first.line"]
    assert [json.loads(line)["event"] for line in second.getvalue().splitlines()] == ["third.line"]


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["a.debug", "a.info", "a.warning", "a.error"]),
        ("info", ["a.info", "a.warning", "a.error"]),
        ("warning", ["a.warning", "a.error"]),
        ("error", ["a.error"]),
    ],
)
def test_only_the_asked_levels_are_written(level: Any, events: list[str]) -> None:
    """`debugging` says whether making the fields is worth it."""
    stream = io.StringIO()
    configure(RuntimeSettings(log_level=level), stream=stream)
    log.debug("a.debug")
    log.info("a.info")
    log.warning("a.warning")
    log.error("a.error")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == events
    assert debugging() is (level == "debug")


@pytest.mark.parametrize(
    "name",
    [
        "prompt", "system", "content", "delta", "text", "output", "body", "message_body", "messageBody", "variables",
        "data", "images", "result", "signature", "Upstash-Signature", "authorization", "Authorization", "cookie",
        "token", "key", "secret", "password", "taskToken", "TASK_TOKEN_SECRET", "QSTASH_CURRENT_SIGNING_KEY",
        "openai_api_key", "system_prompt", "headers", "messages", "completion",
    ],
)  # fmt: skip
def test_content_and_secrets_are_dropped_by_name(lines: Lines, name: str) -> None:
    """At any depth, in any spelling; the line says what it lacks."""
    log.info("call.made", **{name: PROMPT}, nested={"inner": [{name: PROMPT}], "kept": 1})
    (line,) = lines()
    assert PROMPT not in json.dumps(line, ensure_ascii=False)
    assert line["dropped"] == [name]
    assert line["nested"] == {"inner": [{}], "kept": 1}


@pytest.mark.parametrize(
    "name",
    ["tokens", "input_tokens", "first_token_s", "task_id", "queue", "code", "keys", "output_tokens", "secret_count"],
)
def test_numbers_and_ids_have_names_that_stay(name: str) -> None:
    """The list is no wider than it must be."""
    assert not redaction.forbidden(name)


def test_what_does_not_look_like_an_event_is_not_printed(lines: Lines) -> None:
    """Content can't come in as the event's name, formatted or not."""
    for event in (f"got {PROMPT}", PROMPT, "Finished", "a.b c", "a." + "b" * 80, "attempt.finished\n", ""):
        log.info(event)
    assert {line["event"] for line in lines()} == {"log.misnamed"}
    assert all(PROMPT not in json.dumps(line, ensure_ascii=False) for line in lines())


class Colour(Enum):
    """A plain enum."""

    RED = 1


class Word(StrEnum):
    """As outcomes and codes are."""

    DONE = "done"


class Pair(NamedTuple):
    """A record that is also a tuple."""

    a: str
    b: str


@dataclass
class Request:
    """A record with content."""

    prompt: str


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Request(PROMPT), "<Request>"),
        (Pair(PROMPT, PROMPT), "<Pair>"),
        (PROMPT.encode(), "<44 bytes>"),
        (SecretStr("configured-secret"), "<SecretStr>"),
        (object, "<type>"),
        (Colour.RED, 1),
        (Word.DONE, "done"),
        (("a", 2), ["a", 2]),
        ({"a": {"b": {"c": {"d": "deep"}}}}, {"a": {"b": {"c": "<dict>"}}}),
        (list(range(100)), list(range(32))),
        ({str(n): n for n in range(100)}, {str(n): n for n in range(32)}),
        (ValueError(PROMPT), "ValueError"),
        (Rejected("images: too many"), "Rejected: INVALID_PAYLOAD: images: too many"),
        (ConnectionRefusedError(errno.ECONNREFUSED, PROMPT), "ConnectionRefusedError: Connection refused"),
        (OSError(-2, PROMPT), "OSError: -2"),
        (float("nan"), None),
        ("\ud800", "?"),
    ],
)
def test_only_plain_values_are_printed(lines: Lines, value: object, shown: object) -> None:
    """Anything else is its type's name: a repr may hold a prompt."""
    log.info("value.seen", value=value)
    assert lines()[0]["value"] == shown


def test_a_long_text_is_cut(lines: Lines) -> None:
    """Ids and reasons are short; what is long is content."""
    log.info("value.seen", reason="x" * 10_000)
    assert lines()[0]["reason"] == "x" * redaction.VALUE_CHARS_MAX + "… (10000 characters)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:pw@host/0", "redis://***@host/0"),
        ("GET /api/tasks/t1/events?token=eyJ.x.y&after=0", "GET /api/tasks/t1/events?token=***&after=0"),
        ("https://h/v1beta/m?key=AIza", "https://h/v1beta/m?key=***"),
        ("refused configured-secret here", "refused *** here"),
        ("mail@example.com: fine", "mail@example.com: fine"),
    ],
)
def test_secrets_are_masked_by_value(lines: Lines, text: str, shown: str) -> None:
    """Configured ones anywhere, and the usual places of others."""
    log.info("value.seen", reason=text, nested=[text])
    assert (lines()[0]["reason"], lines()[0]["nested"]) == (shown, [shown])


def test_a_secret_that_is_a_common_word_does_not_blind_the_log() -> None:
    """A development password such as `postgres` is a word that operators need."""
    stream = io.StringIO()
    configure(RuntimeSettings(), ["postgres"], stream=stream)
    log.info("check.failed", reason="postgres is away")
    assert "postgres is away" in stream.getvalue()


def test_an_exception_is_its_type_and_frames(lines: Lines) -> None:
    """No words of strangers, no source lines, no local values; causes and our own words stay."""

    def work(prompt: str) -> None:
        try:
            raise KeyError(prompt)
        except KeyError as error:
            raise RedisAway("Redis: ConnectionError") from error

    try:
        work(PROMPT)
    except RedisAway:
        log.exception("step.failed", step="load")
    (line,) = lines()
    described = line["exception"]
    assert PROMPT not in json.dumps(line, ensure_ascii=False)
    assert (line["level"], line["step"]) == ("error", "load")
    assert described["type"] == "RedisAway: Redis: ConnectionError"
    assert described["frames"][-1].startswith(f"{__name__}:test_an_exception_is_its_type_and_frames.<locals>.work:")
    assert described["cause"]["type"] == "KeyError"


def test_an_exception_may_be_handed_in_at_any_level(lines: Lines) -> None:
    """As itself or as the triple of `sys.exc_info`; nothing handed in and nothing handled: no field."""
    log.warning("lease.renewal_failed", exc_info=ValueError(PROMPT))
    try:
        raise ValueError(PROMPT)
    except ValueError:
        log.debug("lease.renewal_failed", exc_info=sys.exc_info())
    log.exception("lease.renewal_failed")  # noqa: LOG004  # that is the test
    first, second, third = lines()
    assert first["exception"] == {"type": "ValueError", "frames": []}
    assert second["exception"]["type"] == "ValueError"
    assert "exception" not in third


def test_groups_and_long_chains_of_exceptions_are_bounded(lines: Lines) -> None:
    """A TaskGroup's errors are all there; recursion does not fill the disk."""

    def fall(depth: int) -> None:
        if depth:
            fall(depth - 1)
        raise ValueError(PROMPT)

    chain: Exception = ValueError(PROMPT)
    for _ in range(10):
        outer = ValueError(PROMPT)
        outer.__cause__ = chain
        chain = outer
    try:
        fall(100)
    except ValueError as error:
        log.error("loops.ended", exc_info=ExceptionGroup("group", [error, chain]))  # noqa: TRY400  # a group of both
    (line,) = lines()
    fallen, chained = line["exception"]["errors"]
    assert len(fallen["frames"]) == redaction.FRAMES_MAX
    assert json.dumps(chained).count('"cause"') == redaction.DEPTH_MAX - 1


def test_a_suppressed_context_is_not_told(lines: Lines) -> None:
    """`raise … from None` means what it says."""
    try:
        try:
            raise KeyError(PROMPT)
        except KeyError:
            raise ValueError from None
    except ValueError:
        log.exception("step.failed")
    assert "cause" not in lines()[0]["exception"]


async def test_ids_are_bound_for_a_block_and_its_tasks(lines: Lines) -> None:
    """Two attempts at once do not see each other's ids."""

    async def attempt(task_id: str) -> None:
        with bind_attempt(task_id=task_id, attempt=1):
            await asyncio.sleep(0)
            async with asyncio.TaskGroup() as group:
                group.create_task(inner())
        log.info("slot.freed")

    async def inner() -> None:
        log.info("call.made")

    async with asyncio.TaskGroup() as group:
        group.create_task(attempt("t1"))
        group.create_task(attempt("t2"))
    seen = [(line["event"], line.get("task_id")) for line in lines()]
    assert sorted(seen, key=str) == [
        ("call.made", "t1"), ("call.made", "t2"), ("slot.freed", None), ("slot.freed", None)
    ]  # fmt: skip


def test_bound_ids_obey_the_same_rules(lines: Lines) -> None:
    """Nothing gets in by the side door."""
    with bind_attempt(task_id="t1", prompt=PROMPT):
        log.bind(answer=PROMPT).info("call.made")
    assert lines()[0]["dropped"] == ["answer", "prompt"]


def test_warnings_of_libraries_come_in_without_their_arguments(lines: Lines) -> None:
    """A library's template is a constant; its arguments may be anything. Chatter below a warning is not wanted."""
    library = logging.getLogger("openai._base_client")  # noqa: TID251  # as a library does
    library.debug("Request options: %s", PROMPT)
    library.info("HTTP Request: %s", PROMPT)
    library.warning("Retrying %s\nsecond line", PROMPT)
    try:
        raise ValueError(PROMPT)
    except ValueError:
        library.exception("Failed for %s", PROMPT)
    first, second = lines()
    assert (first["level"], first["library"], first["template"]) == ("warning", "openai._base_client", "Retrying %s")
    assert (second["level"], second["exception"]["type"]) == ("error", "ValueError")
    assert PROMPT not in json.dumps([first, second], ensure_ascii=False)


async def test_a_forgotten_task_is_told_without_its_words(lines: Lines) -> None:
    """The loop would print the repr of its exception; we don't."""

    async def boom() -> None:
        raise ValueError(PROMPT)

    task = asyncio.get_running_loop().create_task(boom())
    await asyncio.sleep(0)
    del task
    gc.collect()
    (line,) = lines()
    assert line["template"] == "Task exception was never retrieved"
    assert PROMPT not in json.dumps(line, ensure_ascii=False)


def test_without_configuration_the_rules_hold_already(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that forgot to configure logs JSON on stderr, clean of content, and keeps stdout for data."""
    logger("tests.early").info("early.line", prompt=PROMPT)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["dropped"] == ["prompt"]


def test_systemd_gets_a_priority_before_each_line(tmp_path: Path) -> None:
    """When stderr is the very stream that systemd named; `journalctl -p warning` works then."""
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        configure(RuntimeSettings(journal_stream=f"{status.st_dev}:{status.st_ino}"), stream=stream)
        log.info("a.info")
        log.warning("a.warning")
        log.error("an.error")
        stream.seek(0)
        written = stream.read().splitlines()
    assert [line[:3] for line in written] == ["<6>", "<4>", "<3>"]
    assert json.loads(written[0][3:])["event"] == "a.info"


def test_a_stream_that_is_not_the_journal_gets_plain_json(tmp_path: Path) -> None:
    """JOURNAL_STREAM is inherited by children whose stderr goes elsewhere."""
    with (tmp_path / "file").open("w+") as stream:
        configure(RuntimeSettings(journal_stream="1:2"), stream=stream)
        log.info("a.info")
        stream.seek(0)
        assert stream.read().startswith("{")


class Terminal(io.StringIO):
    """A stream that people look at."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_a_terminal_gets_lines_for_people(no_color: str | None, coloured: bool) -> None:  # noqa: FBT001
    """In colour unless NO_COLOR is set."""
    stream = Terminal()
    configure(RuntimeSettings(no_color=no_color), stream=stream)
    log.info("attempt.finished", outcome="done")
    assert ("\x1b[" in stream.getvalue()) is coloured
    assert "attempt.finished" in stream.getvalue() and "{" not in stream.getvalue()


def test_pretty_lines_show_an_exception_with_its_frames_and_causes() -> None:
    """Below the line; no content here either."""
    stream = io.StringIO()
    configure(RuntimeSettings(log_format="pretty"), stream=stream)
    try:
        try:
            raise KeyError(PROMPT)
        except KeyError as error:
            raise ExceptionGroup("group", [ValueError(PROMPT)]) from error
    except ExceptionGroup:
        log.exception("step.failed", step="load")
    text = stream.getvalue()
    assert "\x1b[" not in text  # asked for, but not a terminal
    assert PROMPT not in text
    for part in ("step=load", "\n  ExceptionGroup", "\n    at ", "\n  with ValueError", "\n  because of KeyError"):
        assert part in text


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("closed file")])
def test_a_log_that_can_not_be_written_fails_nothing(error: Exception) -> None:
    """A full disk loses lines, never a task."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise error

    configure(RuntimeSettings(), stream=Full())
    log.error("a.line")


def test_a_closed_stream_is_neither_terminal_nor_journal() -> None:
    """Configuring with it does not fail."""
    stream = io.StringIO()
    stream.close()
    configure(RuntimeSettings(journal_stream="1:2"), stream=stream)
    log.error("a.line")


def test_nothing_of_structlog_is_configured_globally(lines: Lines) -> None:
    """A library that uses structlog itself keeps its own settings."""
    log.info("a.line")
    assert lines()
    assert not structlog.is_configured()


def test_a_process_begins_with_its_secrets_masked_and_its_doubts_said(capsys: pytest.CaptureFixture[str]) -> None:
    """One call at the start of every process."""
    begin(load({"REDIS_URL": "redis://redis:6379/0", "DEEPSEEK_API_KEY": "configured-secret"}))
    log.info("value.seen", reason="configured-secret")
    doubt, seen = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (doubt["level"], doubt["event"]) == ("warning", "settings.warning")
    assert doubt["reason"].startswith("REDIS_URL=redis://redis:6379/0")
    assert seen["reason"] == "***"


def test_rich_is_not_imported_for_us_and_stays_importable() -> None:
    """Every process pays for what the log imports; the demo still gets its rich."""
    script = "import daemon.observability.logging, sys; print('rich' in sys.modules); import rich; print(rich.__name__)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.split() == ["False", "rich"]
