"""Words that the field's replaced (docs/glossary.md) and that are not to come back: in names, logs, metrics, commands.

A word here is a sequence of parts of a name: `row_left` is in `_row_left` and `RowLeft`, and not in `arrow_left`. To
replace one more, change the code first, then add a line. Names that the protocol or a setting fixes stay as they are.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import tokenize
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import click
import pytest

from daemon.cli import cli
from daemon.config import catalogue
from tests.rules.tree import ROOT, files

#: in names of Python and Lua: old -> use instead
NAMES: Final = {
    "ahead": "newer, unsupported version",
    "ahead_entry": "unsupported version",
    "beat": "heartbeat, renewal",
    "beat_call": "renew_call",
    "burial": "consumer deletion",
    "buried": "deleted",
    "bury": "delete_consumer",
    "conclude": "append_last",
    "contracts": "export_contracts, contract_docs",
    "course": "executor",
    "deaf": "stalled",
    "deferrals": "snoozes",
    "deferred": "snoozed",
    "doubts": "warnings",
    "endings": "suffixes, terminal_recovery",
    "entrance": "permit_acquisition",
    "finishing": "shielded_tasks",
    "foreign": "task_id_conflict",
    "forgotten": "lost",
    "garbage": "gc",
    "gathering": "batcher",
    "ghost": "stranded entry",
    "ghosts": "stranded entries",
    "give_back": "requeue, release",
    "good_at": "renewed_at",
    "good_beat": "renewed_at",
    "guard": "limiter, permit",
    "guard_denied": "concurrency_limited",
    "guard_fill": "limiter_use",
    "guard_place": "permit",
    "guard_state": "limiter_state",
    "guards": "limiters",
    "hand_back": "requeue",
    "hand_over": "reserve, requeue",
    "handed_back": "requeued",
    "handover": "permit reservation",
    "heads": "notified waiters",
    "hearing": "stall_detector",
    "hold": "in_flight",
    "holds": "in_flight",
    "hub": "fan_out",
    "idle_bill": "command_budget",
    "judge": "check, inspect, decide",
    "lay_aside": "defer_unread",
    "let_go": "release_claim",
    "letter": "dead_letter",
    "letters": "dead_letters",
    "member": "token, permit",
    "model_closed": "model_unavailable, cooldown",
    "model_open": "model_available",
    "mover": "retry_scheduler",
    "nonces": "idempotency nonce",
    "obey": "apply",
    "parked": "delayed, snoozed",
    "patience": "retry_while_unavailable",
    "paying": "paid",
    "pays": "is_paid",
    "promise": "reservation",
    "promised": "reserved",
    "promised_at": "reserved_at",
    "promises": "reservations",
    "queue_places": "queue_occupancy",
    "quiet": "drain",
    "refund": "cancel_reservation",
    "row_left": "row_released",
    "service_book": "service_catalog",
    "settle": "acknowledge, retry policy",
    "shut": "unavailable",
    "shut_out": "unavailable",
    "sim": "loadtest",
    "sink": "writer",
    "stuck_after": "hard_deadline",
    "tail": "settlement",
    "tapped_client": "raw_body_client",
    "told": "streamed, reported",
    "unheard": "disconnected, waiting",
    "upkeep": "rescuer",
    "waiters": "permit_sweeper",
    "wanted": "filter",
    "world": "dependencies",
}
#: names that something public fixes: name -> what fixes it
FIXED: Final = {
    "GUARDS": "protocol: a stage of events",
    "GUARD_MODEL": "protocol: a reason of events",
    "GUARD_USER": "protocol: a reason of events",
    "GuardSettings": "settings: QSTREAMD_GUARD_…",
    "guard": "protocol: the hash tag {guard}",
    "guard_s": "settings: QSTREAMD_RETRY_GUARD_S",
    "guards": "settings: the group of GuardSettings",
    "parked": "protocol: a field of entries in :held",
    "parked_at": "protocol: the field parkedAt of entries",
    "settle_entry": "it settles, in the glossary's sense",
}
#: files where a word is plain English or another thing's own name: glob, words, reason
PLAIN: Final = (
    ("daemon/dev/*", "beat foreign letter letters promise settle tail told wanted world", "stand-ins"),
    ("daemon/cli/*", "letter letters quiet settle tail told wanted world", "options and lines of commands"),
    (
        "daemon/admin/*",
        "foreign holds letter letters member promise settle tail told waiters wanted",
        "words of reports",
    ),
    ("daemon/contract_docs/*", "told promise", "what is said of a route; promise.ts is public"),
    ("daemon/providers/*", "told hold holds", "what a provider said; a payload kept in memory"),
    ("daemon/config/shown.py", "holds", "a verb: what a value holds"),
    ("daemon/relay/signature.py", "holds", "a verb: a signature holds"),
    ("daemon/worker/lease.py", "holds", "a verb, and a field of log lines"),
    ("daemon/worker/reclaim.py", "member", "a member of the set of consumers"),
    (
        "daemon/queues/*",
        "letter letters member promised wanted",
        "dead letters' own room; sets; a reply of reserve.lua",
    ),
    ("daemon/limiter/*", "waiters ahead holds", "those in line; `paid_ahead_ms`; a verb"),
    ("daemon/redis_client/keys.py", "waiters", "those in line at a limiter"),
    ("daemon/events/*", "tail", "the newest part of a stream"),
    ("daemon/observability/logging.py", "sink", "where log lines go"),
    ("daemon/store/pool.py", "foreign", "URL parameters of other clients"),
)
#: in the events of log lines
EVENTS: Final = {
    "beat": "lease.renewal, heartbeat",
    "broke": "crashed",
    "buried": "deleted",
    "closed": "unavailable",
    "deaf": "stalled",
    "doubtful": "warning",
    "endings": "results",
    "found_unseen": "pending_recovered",
    "freed": "rescued",
    "ghost": "stranded",
    "gone": "missing",
    "handing_back": "requeueing",
    "hub": "fan_out",
    "judged": "checked, check_skipped",
    "leave": "deregister",
    "left": "cleanup_failed",
    "not_restorable": "restore_failed",
    "open": "ready, available",
    "promises": "reservations",
    "tail": "settlement",
    "unheard": "disconnected",
    "unsent": "flush_timed_out",
    "upkeep": "rescue",
    "waiters": "permits",
}
#: in names and labels of metrics
METRICS: Final = {
    "blobs_left": "blob_cleanup_failures",
    "closed": "cooldowns, available",
    "deferrals": "snoozes",
    "guard_denied": "concurrency_limited",
    "guard_limit": "permits_max",
    "guard_used": "permits_in_use",
    "handed_back": "requeued",
    "kind": "reason, type, transport",
    "model_open": "model_available",
    "places": "queue_occupancy, queue_capacity",
    "running": "attempts_in_flight",
    "what": "operation, reason",
    "why": "reason",
}
#: in what metrics say of themselves
HELPS: Final = {
    "grows": "Number of …",
    "guards": "concurrency limits",
    "handed back": "requeued",
    "judged": "handled",
    "moves": "Number of …",
    "parked": "delayed, snoozed",
    "promised": "reserved",
}
#: in English pages and in the reasons of settings
PROSE: Final = {
    r"h(?:and(?:s|ing)?|anded)[ -]backs?": "requeue, release",
    r"place (?:is )?given back": "occupancy released, permit released",
    r"the mover": "the retry scheduler",
    r"guards?(?!: )": "limiter, permit",  # `guard: …` explains the label of a metric
    r"parked": "delayed, snoozed",
    r"ghosts?": "stranded entry",
    r"buried": "deleted",
    r"deaf": "stalled",
}
#: in commands, their verbs and their options, as `--help` shows them
COMMANDS: Final = {
    "bury": "delete",
    "close": "block",
    "contracts": "export-contracts",
    "open": "unblock",
    "probe": "healthcheck",
    "providers": "models",
    "sim": "loadtest",
}
#: `doctor --providers` asks the providers themselves; the contract has more than one file
RIGHT: Final = {"doctor --providers", "export-contracts"}

PART: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
LOG_CALLS: Final = {"debug", "info", "warning", "error", "exception", "critical", "log"}
METRIC_CALLS: Final = {"_counter", "_gauge", "_histogram"}
CODE: Final = files("daemon", suffix=".py")
PAGES: Final = [
    *(
        path
        for name in ("docs", "docs/guides")
        for path in sorted((ROOT / name).glob("*.md"))
        if ".zh" not in path.name
    ),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
]


def parts(name: str) -> str:
    """`_RowLeft` as `row_left`: what a word is looked for in."""
    return "_".join(part.lower() for part in PART.findall(name))


def replaced(name: str, words: Mapping[str, str]) -> list[str]:
    """The words of the table that stand in `name`, as whole parts."""
    inside = f"_{parts(name)}_"
    return [word for word in words if f"_{parts(word)}_" in inside]


def problem(where: str, name: str, word: str, words: Mapping[str, str]) -> str:
    """What a failure says: the place, the name, and what to write in its stead."""
    return f"{where}: `{name}` says `{word}`; use: {words[word]} (docs/glossary.md, tests/rules/test_words.py)"


def problems(found: Iterator[tuple[str, str]], words: Mapping[str, str]) -> list[str]:
    """One line for each name that holds a word of the table."""
    said = functools.cache(lambda name: replaced(name, words))
    return [problem(where, name, word, words) for where, name in found for word in said(name)]


def lines(found: list[str]) -> str:
    """All of them, one below the other; pytest shows one of a list."""
    return "\n".join(["", *found])


@functools.cache
def settings() -> frozenset[str]:
    """Names of settings, and what is left of each without its first parts; they are public."""
    names = (entry.name.lower().split("_") for _, entry in catalogue())
    return frozenset("_".join(name[at:]) for name in names for at in range(len(name) - 1))


def fixed(name: str) -> bool:
    """Whether something public fixes the name: a setting, without its prefix, or what `FIXED` lists."""
    return name in FIXED or name.strip("_").lower() in settings()


@functools.cache
def plain(path: str) -> frozenset[str]:
    """Words that say nothing wrong in this file."""
    return frozenset(word for glob, words, _ in PLAIN if fnmatchcase(path, glob) for word in words.split())


def banned(found: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Where, name and word of each name that says a replaced word where it may not."""
    said = functools.cache(lambda name: [] if fixed(name) else replaced(without_dead_letters(name), NAMES))
    for where, name in found:
        for word in said(name):
            if word not in plain(where.split(":")[0]):
                yield where, name, word


def without_dead_letters(name: str) -> str:
    """`read_dead_letters` as `read`: of letters, only those that do not say which are wrong."""
    return re.sub(r"dead_letters?", "", parts(name))


def place(path: Path, line: int) -> str:
    """`file:line`, to be clicked on."""
    return f"{path.relative_to(ROOT).as_posix()}:{line}"


def python_names() -> Iterator[tuple[str, str]]:
    """Every name in the code; strings and comments are none."""
    for path in CODE:
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.NAME:
                    yield place(path, token.start[0]), token.string


def lua_names() -> Iterator[tuple[str, str]]:
    """Every word of a script outside of its comments."""
    for path in files("daemon", suffix=".lua"):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            for name in re.findall(r"[A-Za-z_]\w*", line.split("--")[0]):
                yield place(path, number), name


def called(path: Path, methods: set[str]) -> Iterator[ast.Call]:
    """Calls of these methods in a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in methods:
                yield node


def texts(node: ast.AST) -> list[str]:
    """The strings below a node."""
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def log_events() -> Iterator[tuple[str, str]]:
    """The dotted events that the code logs, also where one of two is chosen."""
    for path in CODE:
        for call in called(path, LOG_CALLS):
            for event in texts(call.args[0]) if call.args else []:
                if re.fullmatch(r"[a-z_]+\.[a-z_]+", event):
                    yield place(path, call.lineno), event


def metrics() -> Iterator[tuple[str, str, list[str]]]:
    """Where, name, and the texts beside the name: the help first, then the labels."""
    path = ROOT / "daemon" / "observability" / "metrics.py"
    for call in called(path, METRIC_CALLS):
        name, *rest = [text for argument in call.args for text in texts(argument)]
        yield place(path, call.lineno), name, rest


def metric_names() -> Iterator[tuple[str, str]]:
    """Names and labels."""
    for where, name, (_, *labels) in metrics():
        for text in (name, *labels):
            yield where, text


def metric_helps() -> Iterator[tuple[str, str]]:
    """What each metric says of itself."""
    for where, _, (help_, *_) in metrics():
        yield where, help_


def commands(command: click.Command = cli, name: str = "") -> Iterator[tuple[str, str]]:
    """What `--help` shows: commands, verbs, options. Hidden ones are earlier names, kept for scripts."""
    callback = inspect.unwrap(command.callback).__code__ if command.callback else None
    where = place(Path(callback.co_filename), callback.co_firstlineno) if callback else "daemon/cli"
    if name:
        yield where, name
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for option in parameter.opts:
                if f"{name} {option}" not in RIGHT:
                    yield where, option
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                yield from commands(found, inner)


def test_no_name_says_a_replaced_word() -> None:
    """Python and Lua; a name that a setting fixes may stay."""
    found = (*python_names(), *lua_names())
    assert len(found) > 50_000
    bad = [problem(where, name, word, NAMES) for where, name, word in banned(iter(found))]
    assert not bad, lines(bad)


def test_each_exception_is_needed() -> None:
    """A word leaves the list of exceptions with the last name that needs it."""
    found = {(where.split(":")[0], word) for where, name in (*python_names(), *lua_names()) if not fixed(name)
             for word in replaced(without_dead_letters(name), NAMES)}  # fmt: skip
    idle = [
        (glob, word)
        for glob, words, _ in PLAIN
        for word in words.split()
        if not any(word == said and fnmatchcase(path, glob) for path, said in found)
    ]
    assert not idle


def test_no_log_event_says_a_replaced_word() -> None:
    """People search for events; one that needs an explanation is not found."""
    found = list(log_events())
    assert len(found) > 60
    bad = problems(iter(found), EVENTS)
    assert not bad, lines(bad)


def test_no_metric_says_a_replaced_word() -> None:
    """Names and labels are typed into alerts, helps are read at 3 a.m."""
    found = list(metric_names())
    assert len(found) > 60
    bad = problems(iter(found), METRICS) + problems(metric_helps(), HELPS)
    assert not bad, lines(bad)


def test_no_command_says_a_replaced_word() -> None:
    """Earlier names stay, hidden (daemon/cli/aliases.py)."""
    found = [(where, name) for where, name in commands() if name not in RIGHT]
    assert {"models", "block", "loadtest", "--json"} <= {name for _, name in found}
    bad = problems(iter(found), COMMANDS)
    assert not bad, lines(bad)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_page_says_a_replaced_word(path: Path) -> None:
    """Code in backquotes is what it is, and the heading of a group of settings is its name."""
    text = re.sub(r"```.*?```|`[^`]*`|^## guards$", lambda code: re.sub(r"[^\n]", " ", code[0]),
                  path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)  # fmt: skip
    bad = [
        f"{place(path, number)}: says `{found[0]}`; use: {better}"
        for number, line in enumerate(text.splitlines(), 1)
        for word, better in PROSE.items()
        for found in re.finditer(rf"\b{word}\b", line, re.IGNORECASE)
    ]
    assert not bad, lines(bad)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("row_left", ["row_left"]), ("_RowLeft", ["row_left"]), ("ROW_LEFT_S", ["row_left"]), ("arrow_left", []),
        ("rows_left", []), ("simulate", []), ("of_course", ["course"]), ("ghosts", ["ghosts"]),
        ("HandedBack", ["handed_back"]),
    ],
)  # fmt: skip
def test_a_word_is_found_in_every_spelling_and_only_as_a_word(name: str, words: list[str]) -> None:
    """Snake, camel, upper case; never in the middle of another word."""
    assert replaced(name, NAMES) == words


def test_a_failure_says_where_and_what_to_write() -> None:
    """Somebody who never saw this table can mend it from the message alone."""
    assert problems(iter([("daemon/x.py:7", "worker.deaf")]), EVENTS) == [
        "daemon/x.py:7: `worker.deaf` says `deaf`; use: stalled (docs/glossary.md, tests/rules/test_words.py)"
    ]


def test_the_names_of_settings_may_stay() -> None:
    """They are public: `QSTREAMD_PROMISE_TTL_S` is `promise_ttl_s` in the code."""
    assert fixed("promise_ttl_s") and fixed("_promise_ttl_s") and not fixed("promise")
