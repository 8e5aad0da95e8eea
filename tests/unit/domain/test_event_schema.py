"""Every event that the code builds has the published form."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from jsonschema import Draft202012Validator

from daemon.contract_docs import schemas
from daemon.domain import event_schema, events
from daemon.domain.errors import Code
from daemon.domain.events import Channel, EventDraft, Reason, Stage, Usage

HEAD: Final = {"v": 1, "taskId": "t1", "attempt": 1, "seq": 1, "requestId": "r", "traceId": "t", "timestamp": 1.5}
SHA: Final = "0" * 64

BUILT: Final[list[EventDraft]] = [
    events.started("m1"),
    events.progress(Stage.GUARDS, "waiting"),
    events.progress(Stage.QUEUE, "paused", reason=Reason.QUEUE_PAUSED, percent=12.5),
    events.token_batch("Hi", Channel.TEXT),
    events.token_batch("hm", Channel.REASONING),
    events.error(Stage.EXECUTE, Code.LLM_ERROR, "text", retryable=True, retry_at=1_800_000_000.1234),
    events.error(Stage.DELIVER, Code.DELIVERY_FAILED, "text", retryable=False),
    events.done("t1", usage=Usage(), model_id="m1", content_sha256=SHA, result=None),
    events.done("t1", usage=Usage(1, 2, 3, 4, 0.5), model_id="m1", content_sha256=SHA, result={"score": 1}),
    events.done("t1", usage=Usage(), model_id="m1", content_sha256=SHA, result="x" * 5000),
]


def written(draft: EventDraft) -> bytes:
    return msgspec.json.encode({**HEAD, "type": draft.type, **draft.fields})


@pytest.mark.parametrize("draft", BUILT, ids=lambda draft: f"{draft.type}-{len(draft.fields)}")
def test_every_builder_makes_a_valid_event(draft: EventDraft) -> None:
    """The type accepts it, nothing is lost on the way, and the published schema agrees."""
    data = written(draft)
    event = msgspec.json.decode(data, type=event_schema.WorkerEvent)
    assert msgspec.json.decode(msgspec.json.encode(event)) == msgspec.json.decode(data)
    validator = Draft202012Validator(schemas.worker_event())
    assert [error.message for error in validator.iter_errors(msgspec.json.decode(data))] == []


def test_every_builder_and_every_event_type_is_covered() -> None:
    """A new builder or event can't slip past this file."""
    builders = {
        name
        for name, value in vars(events).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") == "EventDraft"
    }
    assert builders == {"started", "progress", "token_batch", "error", "done"}
    tags = {event.__struct_config__.tag for event in event_schema.EVENTS}
    assert tags == {str(kind) for kind in events.EventType}
    assert tags - {str(draft.type) for draft in BUILT} == {"queued"}  # written by the append script


@pytest.mark.parametrize("position", [None, 3])
def test_queued_is_valid_as_the_append_script_writes_it(position: int | None) -> None:
    """The first event has attempt 0, seq 0, and its place in the queue only if it is known."""
    data: dict[str, Any] = {**HEAD, "type": "queued", "attempt": 0, "seq": 0, "queueId": "q_paid_stream"}
    if position is not None:
        data["position"] = position
    event = msgspec.convert(data, type=event_schema.WorkerEvent)
    assert isinstance(event, event_schema.QueuedEvent) and event.position == position


@pytest.mark.parametrize(
    "change",
    [{"surprise": 1}, {"attempt": -1}, {"v": 2}, {"taskId": "a b"}, {"modelId": None}, {"stage": "write"}],
    ids=repr,
)
def test_an_event_of_another_form_is_refused(change: dict[str, Any]) -> None:
    """The types are exact: they would notice a writer that drifts."""
    data = {**HEAD, "type": "started", "stage": "execute", "modelId": "m1", **change}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, type=event_schema.WorkerEvent)
