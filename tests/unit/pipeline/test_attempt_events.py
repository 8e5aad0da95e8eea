"""Every event that the pipeline ends an attempt with has the published form."""

from __future__ import annotations

import msgspec
import pytest

from daemon.domain import event_schema
from daemon.domain.errors import CODES, Code, TaskError
from daemon.domain.events import EventDraft, Reason, Stage, Usage
from daemon.domain.states import State
from daemon.pipeline import attempt_events
from daemon.ports import AlreadyEnded, StoredResult

HEAD = {"v": 1, "taskId": "t1", "attempt": 1, "seq": 1, "requestId": "r", "traceId": "t", "timestamp": 1.5}
STORED = StoredResult(7, "0" * 64, None, "the answer", "m", Usage(1, 0, 2))
JSON = StoredResult(7, "0" * 64, {"score": 1}, '{"score": 1}', "m", Usage(1, 0, 2))

ALL: list[EventDraft] = [
    attempt_events.done_event("t1", STORED),
    attempt_events.done_event("t1", JSON),
    attempt_events.requeued_event(),
    attempt_events.fallback_event("m2"),
    *(attempt_events.waiting_event(Stage.GUARDS, reason) for reason in Reason),
    *(attempt_events.final_event(Stage.EXECUTE, code) for code in Code),
    *(e for code in Code for e in attempt_events.retry_events(TaskError(code=code), Stage.EXECUTE, 1_800_000_000.5)),
    *(
        attempt_events.ended_event("t1", AlreadyEnded(state, 1, Code.LLM_ERROR, None))
        for state in (State.FAILED, State.EXPIRED)
    ),
]


@pytest.mark.parametrize("draft", ALL, ids=lambda draft: f"{draft.type}-{draft.fields.get('code', '')}")
def test_every_event_is_valid_under_the_published_schema(draft: EventDraft) -> None:
    """A reader that was generated from the schema reads all of them."""
    data = msgspec.json.encode({**HEAD, "type": draft.type, **draft.fields})
    msgspec.json.decode(data, type=event_schema.WorkerEvent)


def test_only_the_end_is_terminal() -> None:
    """`done` and an error without another attempt close the stream; nothing else does."""
    terminal = {d.type for d in ALL if d.terminal}
    assert terminal == {"done", "error"}
    assert not any(d.terminal for d in attempt_events.retry_events(TaskError(), Stage.EXECUTE, 1.0))


def test_a_json_result_is_told_as_a_document() -> None:
    """What a reader gets inline is what the row holds as data, not its text."""
    assert attempt_events.done_event("t1", JSON).fields["result"] == {"score": 1}
    assert attempt_events.done_event("t1", STORED).fields["result"] == "the answer"


def test_an_error_speaks_its_own_words_or_those_of_its_code() -> None:
    """The viewer always gets a sentence."""
    assert (
        attempt_events.final_event(Stage.LOAD, Code.IMAGE_NOT_FOUND).fields["message"] == CODES[Code.IMAGE_NOT_FOUND].en
    )
    assert attempt_events.final_event(Stage.LOAD, Code.INVALID_PAYLOAD, "role is missing").fields["message"] == (
        "role is missing"
    )


def test_the_end_is_told_again_as_it_was() -> None:
    """A row that is done makes the same `done`; one that failed its code; one without a code is ours."""
    assert (
        attempt_events.ended_event("t1", AlreadyEnded(State.DONE, 2, None, STORED)).fields
        == attempt_events.done_event("t1", STORED).fields
    )
    assert attempt_events.ended_event("t1", AlreadyEnded(State.FAILED, 2, None, None)).fields["code"] == Code.INTERNAL
    assert (
        attempt_events.ended_event("t1", AlreadyEnded(State.EXPIRED, 2, Code.EXPIRED, None)).fields["code"]
        == Code.EXPIRED
    )
