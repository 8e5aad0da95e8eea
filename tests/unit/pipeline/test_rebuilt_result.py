"""What `done` and the deltas before it still hold of a result."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.domain import events
from daemon.domain.events import Event, EventType, Usage
from daemon.domain.messages import content_sha256
from daemon.pipeline.rebuilt_result import rebuild_result

USAGE = Usage(input_tokens=7, output_tokens=3, cost_usd=0.5)


def done(content: str, result: Any = None) -> Event:
    """The event as it is read back."""
    draft = events.done(
        "t1", usage=USAGE, model_id="m", content_sha256=content_sha256(content), result=result, finish_reason="length"
    )
    fields = {**draft.fields, "usage": {"inputTokens": 7, "outputTokens": 3, "costUsd": 0.5}, "attempt": 2}
    return Event("1-0", EventType.DONE, fields)


@pytest.mark.parametrize(
    ("content", "result", "text", "data"),
    [
        ("a long answer", None, "a long answer", None),  # of a stream
        ("short", "short", "", None),  # of a batch
        ("", "", "", None),
        ('{"a":1}', {"a": 1}, '{"a":1}', {"a": 1}),
        ('{"a":1}', {"a": 1}, "", {"a": 1}),
    ],
)
def test_what_hashes_to_the_name_is_the_result(content: str, result: Any, text: str, data: Any) -> None:
    """With all that the row would have held."""
    draft = rebuild_result(done(content, result), text)
    assert draft is not None
    assert (draft.content, draft.data, draft.content_sha256) == (content, data, content_sha256(content))
    assert (draft.model_id, draft.usage, draft.finish_reason) == ("m", USAGE, "length")


@pytest.mark.parametrize(
    ("content", "result", "text"),
    [("a long answer", None, ""), ("a long answer", None, "a long"), ('{ "a": 1 }', {"a": 1}, "")],
)
def test_anything_else_is_lost(content: str, result: Any, text: str) -> None:
    """A part of the text, or JSON in another form, is not the answer that was paid for."""
    assert rebuild_result(done(content, result), text) is None
