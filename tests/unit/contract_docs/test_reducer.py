"""The event reducer that every front end shares: strict TypeScript finds nothing in it, and it shows what happened."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from daemon.contract_docs import reducer
from daemon.domain.errors import CODES, Code
from daemon.domain.events import Channel, EventDraft, Reason, Stage, Usage, done, error, progress, started, token_batch
from tests import nodejs

pytestmark = pytest.mark.timeout(180)

DOCS: Final = Path(__file__).parents[3] / "docs"
HEAD: Final = {"v": 1, "taskId": "t1", "requestId": "r", "traceId": "t", "timestamp": 1.5}
QUEUED: Final = {**HEAD, "type": "queued", "attempt": 0, "seq": 0, "queueId": "q_paid_stream", "position": 3}
FOLD: Final = """
import { readFileSync } from "node:fs";
import { INITIAL_VIEW, reduce, textOf } from "./qstreamd.js";
const views = [];
let view = INITIAL_VIEW;
for (const [id, event] of JSON.parse(readFileSync(0, "utf8"))) {
  view = reduce(Object.freeze(view), event, id ?? undefined);
  views.push({ ...view, en: textOf(view, "en-GB"), zh: textOf(view, "zh-CN") });
}
console.log(JSON.stringify(views));
"""
#: an implementation that has exactly the types that the declarations promise
AGREE: Final = """
import * as written from "./written.js";
import * as declared from "./qstreamd.js";
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false;
export const names: Same<keyof typeof written, keyof typeof declared> = true;
export const all: typeof declared = written;
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the module as a front end has it."""
    root = tmp_path_factory.mktemp("module")
    for name in ("qstreamd.js", "qstreamd.d.ts"):
        shutil.copy(DOCS / "contract" / name, root)
    (root / "package.json").write_text('{"type": "module"}')
    (root / "fold.js").write_text(FOLD)
    return root


def event(attempt: int, draft: EventDraft) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(draft.fields)
    return {**HEAD, "type": draft.type.value, "attempt": attempt, "seq": 1, **fields}


def ended(text: str, result: Any = None, finish_reason: str | None = "stop") -> EventDraft:
    sha = hashlib.sha256(text.encode()).hexdigest()
    return done(
        "t1", usage=Usage(), model_id="m1", content_sha256=sha, result=result, finish_reason=finish_reason
    )  # fmt: skip


def views(module: Path, *events: dict[str, Any], ids: list[str | None] | None = None) -> list[dict[str, Any]]:
    """What is on show after each of the events."""
    numbered = ids or [f"{1000 + at}-0" for at in range(len(events))]
    given = json.dumps(list(zip(numbered, events, strict=True)))
    found = nodejs.run(module, "fold.js", given=given)
    assert found.returncode == 0, found.stderr
    shown: list[dict[str, Any]] = json.loads(found.stdout)
    return shown


def test_types_and_code_agree_and_no_event_is_forgotten(module: Path) -> None:
    """Checked strictly: a seventh event would not compile, nor would a declaration that the code does not keep."""
    tsc = nodejs.installed("typescript", [nodejs.TYPESCRIPT]) / "node_modules" / "typescript" / "bin" / "tsc"
    shutil.copy(module / "qstreamd.js", module / "written.js")
    (module / "agree.ts").write_text(AGREE)
    options = ["--noEmit", "--strict", "--allowJs", "--checkJs", "--target", "es2022", "--module", "nodenext"]
    found = nodejs.run(module, tsc, *options, "agree.ts")
    assert (found.returncode, found.stdout) == (0, "")


def test_every_code_and_reason_has_words_in_both_languages() -> None:
    """Generated from the contract, so none is missing and none is left over."""
    assert set(reducer.WAITING_ZH) == set(Reason)
    text = reducer.module()
    for code, info in CODES.items():
        assert f"  {code.value}: {{ en: {json.dumps(info.en)}, zh: " in text
        assert info.zh in text


def test_a_task_that_ends_well_is_verified(module: Path) -> None:
    """The text is exactly the one that `done` names; thinking is kept apart."""
    shown = views(
        module, QUEUED, event(1, started("m1")), event(1, token_batch("hm", Channel.REASONING)),
        event(1, token_batch("Good 好", Channel.TEXT)), event(1, token_batch("😀", Channel.TEXT)),
        event(1, ended("Good 好😀")),
    )  # fmt: skip
    assert [view["state"] for view in shown] == ["queued", "running", "running", "running", "running", "done"]
    assert (shown[0]["queueId"], shown[0]["position"], shown[1]["modelId"]) == ("q_paid_stream", 3, "m1")
    last = shown[-1]
    assert (last["text"], last["reasoning"], last["verified"], last["ended"]) == ("Good 好😀", "hm", True, True)
    assert (last["resultRef"], last["cursor"]) == ("db:result:t1", "1005-0")


@pytest.mark.parametrize("reason", ["stop", None, *reducer.FINISHES])
def test_an_answer_that_is_not_whole_says_so(module: Path, reason: str | None) -> None:
    """In both languages; a whole one speaks for itself."""
    last = views(module, QUEUED, event(1, started("m1")), event(1, ended("Dear", "Dear", reason)))[-1]
    assert last.get("finishReason") == reason
    assert (last["en"], last["zh"]) == reducer.FINISHES.get(reason or "", ("", ""))


def test_an_end_without_a_result_says_what_it_has_cost(module: Path) -> None:
    failed = error(Stage.EXECUTE, Code.LLM_ERROR, "no", retryable=False, usage=Usage(5, None, 3))
    assert views(module, QUEUED, event(1, failed))[-1]["usage"]["inputTokens"] == 5


def test_the_text_of_a_failed_attempt_goes(module: Path) -> None:
    """At the first event of a higher attempt, and a late event of the lower one changes nothing."""
    shown = views(
        module, QUEUED, event(1, started("m1")), event(1, token_batch("Wrong ", Channel.TEXT)),
        event(1, error(Stage.EXECUTE, Code.LLM_TIMEOUT, "slow", retryable=True, retry_at=9.0)),
        event(1, progress(Stage.QUEUE, "trying again soon", reason=Reason.RETRY_AT)),
        event(2, started("m2")), event(1, token_batch("late", Channel.TEXT)),
        event(2, token_batch("Right", Channel.TEXT)),
        event(2, ended("Right")),
    )  # fmt: skip
    assert [view["text"] for view in shown][2:] == ["Wrong "] * 3 + ["", "", "Right", "Right"]
    assert (shown[3]["state"], shown[3]["retryAt"], shown[3]["zh"]) == ("retrying", 9.0, "模型响应超时。")
    assert (shown[4]["state"], shown[4]["retryAt"]) == ("retrying", 9.0)
    assert (shown[5]["state"], shown[5]["attempt"], shown[5]["modelId"]) == ("running", 2, "m2")
    assert "retryAt" not in shown[5] and shown[-1]["verified"]


def test_what_was_seen_before_is_not_shown_twice(module: Path) -> None:
    """After a reconnect the same ids may come again; what carries no id is always new."""
    delta = event(1, token_batch("a", Channel.TEXT))
    shown = views(
        module, QUEUED, event(1, started("m1")), delta, delta, event(1, started("m1")), delta, event(1, ended("aa")),
        ids=["5-0", "5-1", "5-2", "5-2", "5-1", "10-0", None],
    )  # fmt: skip
    assert [view["text"] for view in shown] == ["", "", "a", "a", "a", "aa", "aa"]
    assert shown[-1]["verified"] and shown[-1]["cursor"] == "10-0"


def test_an_end_without_an_id_counts_under_the_last_one(module: Path) -> None:
    """An EventSource names the last id again where an event has none: the end that is made from Postgres."""
    begun, end = [QUEUED, event(1, started("m1"))], event(1, ended("Good", "Good"))
    shown = views(module, *begun, end, end, ids=["5-0", "5-1", "5-1", "5-1"])
    assert [view["state"] for view in shown] == ["queued", "running", "done", "done"]
    assert (shown[-1]["text"], shown[-1]["cursor"]) == ("Good", "5-1")


def test_a_wrong_text_is_noticed_and_mended_where_it_can_be(module: Path) -> None:
    """A short answer travels in `done`; a longer one has to be read by its reference."""
    begun = [QUEUED, event(1, started("m1")), event(1, token_batch("Go d", Channel.TEXT))]
    long = views(module, *begun, event(1, ended("Good")))[-1]
    assert (long["verified"], long["text"], long["resultRef"]) == (False, "Go d", "db:result:t1")
    short = views(module, *begun, event(1, ended("Good", "Good")))[-1]
    assert (short["verified"], short["text"]) == (True, "Good")


def test_a_batch_brings_its_answer_with_the_end(module: Path) -> None:
    """Text if it is short; parsed data as it is; and of a long answer only where it lies."""
    begun = [QUEUED, event(1, started("m1"))]
    text = views(module, *begun, event(1, ended("All of it", "All of it")))[-1]
    assert (text["text"], text["verified"]) == ("All of it", True)
    data = views(module, *begun, event(1, ended('{"a": 1}', {"a": 1})))[-1]
    assert (data["result"], data["text"], "verified" in data) == ({"a": 1}, "", False)
    assert "verified" not in views(module, *begun, event(1, ended("x" * 9999)))[-1]


@pytest.mark.parametrize(
    ("code", "state"), [(Code.CANCELLED, "cancelled"), (Code.EXPIRED, "expired"), (Code.LLM_REFUSED, "failed")]
)
def test_an_end_without_a_result_says_why(module: Path, code: Code, state: str) -> None:
    """In both languages; nothing that comes later changes it."""
    shown = views(
        module, QUEUED, event(0, error(Stage.QUEUE, code, CODES[code].en, retryable=False)), event(1, started("m1"))
    )
    assert shown[1]["state"] == shown[2]["state"] == state
    assert (shown[1]["en"], shown[1]["zh"], shown[1]["ended"]) == (CODES[code].en, CODES[code].zh, True)


@pytest.mark.parametrize("reason", Reason)
def test_a_pause_says_why(module: Path, reason: Reason) -> None:
    """And is over with the next attempt."""
    shown = views(module, QUEUED, event(0, progress(Stage.GUARDS, "wait", reason=reason)), event(1, started("m1")))
    assert shown[1]["state"] == ("retrying" if reason is Reason.RETRY_AT else "waiting")
    assert (shown[1]["zh"], shown[1]["en"], shown[2]["zh"]) == (reducer.WAITING_ZH[reason], "wait", "")


def test_a_gap_and_a_replay_begin_anew(module: Path) -> None:
    """Nothing old stays on show."""
    delta = event(1, token_batch("old", Channel.TEXT))
    gap = {"type": "gap", "taskId": "t1", "first": "3-0"}
    shown = views(module, QUEUED, event(1, started("m1")), delta, gap, delta, ids=["9-0", "9-1", "9-2", None, "9-2"])
    assert [view["text"] for view in shown[2:]] == ["old", "", "old"]
    failed = event(1, error(Stage.EXECUTE, Code.LLM_ERROR, "no", retryable=False))
    again = views(module, QUEUED, event(1, started("m1")), delta, failed, QUEUED, event(2, started("m1")))
    assert (again[3]["ended"], again[4]["ended"], again[4]["text"], again[5]["state"]) == (True, False, "", "running")


def test_hashes_are_those_of_the_daemon(module: Path) -> None:
    """Every length around a block, every width of a character, halves of a pair."""
    texts = ["a" * size for size in range(130)] + ["é" * 61, "好" * 999, "😀x" * 77, "\ud800", "x\udfff好"]
    script = "import { sha256 } from './qstreamd.js'; import { readFileSync } from 'node:fs';"
    script += "console.log(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(sha256)))"
    found = nodejs.run(module, "--input-type=module", "-e", script, given=json.dumps(texts))
    assert json.loads(found.stdout) == [hashlib.sha256(t.encode("utf-8", "surrogatepass")).hexdigest() for t in texts]
