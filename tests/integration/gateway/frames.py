"""Reads an SSE answer as a browser does, strictly: fields, comments, blank lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp


class Frame(NamedTuple):
    """One event, or (`event` "") a comment or `retry` line."""

    id: str | None
    event: str
    data: Any
    raw: str = ""


async def frames(answer: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    """Each frame as it comes, until the server ends the answer."""
    text = ""
    async for chunk in answer.content.iter_any():
        text += chunk.decode()
        while "\n\n" in text:
            block, _, text = text.partition("\n\n")
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            assert set(fields) <= {"id", "event", "data", "retry"}, block
            if "data" in fields:
                yield Frame(fields.get("id"), fields["event"], json.loads(fields["data"]), block)
            else:
                yield Frame(None, "", None, block)
    assert text == "", f"cut within a frame: {text!r}"


async def all_events(answer: aiohttp.ClientResponse) -> list[Frame]:
    """Every event until the end, comments left out."""
    return [frame async for frame in frames(answer) if frame.event]
