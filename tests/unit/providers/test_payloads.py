"""Events out of bytes, however the network cuts them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from daemon.providers import payloads
from daemon.providers.payloads import SseParser, TooLarge

STREAM = (
    ': keep-alive\n\ndata: {"a": 1}\r\n\r\nevent: x\nid: 3\nretry: 5\ndata:{"b":"\u2028ü"}\n\n\n\n'
    "data: one\ndata: two\n\n: bye\rdata: cr\r\rdata: [DONE]\n\n"
).encode()
EVENTS = [b'{"a": 1}', '{"b":"\u2028ü"}'.encode(), b"one\ntwo", b"cr", b"[DONE]"]


def parsed(pieces: list[bytes]) -> list[bytes]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.end()


def test_the_whole_stream_at_once() -> None:
    """Comments and other fields vanish; line separators inside JSON are not line ends."""
    assert parsed([STREAM]) == EVENTS


def test_byte_by_byte() -> None:
    """A line end of two bytes may be cut in two."""
    assert parsed([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


@pytest.mark.parametrize("seed", range(20))
def test_cut_anywhere(seed: int) -> None:
    """Reads end where they like."""
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(len(STREAM)), 9))
    assert parsed([STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]) == EVENTS


def test_the_last_blank_line_may_be_missing() -> None:
    """Some servers just close."""
    assert parsed([b"data: a\n\ndata: b\n"]) == [b"a", b"b"]
    assert parsed([b"data: a\n\ndata: b"]) == [b"a", b"b"]


def test_a_page_is_no_event() -> None:
    """A proxy's HTML, or raw JSON, holds no event."""
    assert parsed([b"<html>\n<body>Bad gateway</body>\n</html>", b'{"error": 1}']) == []


def test_an_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one stream may hold in memory is bounded, within a line and over the lines of an event."""
    monkeypatch.setattr(payloads, "EVENT_BYTES_MAX", 100)
    parser = SseParser()
    parser.feed(b"data: " + b"x" * 90)
    with pytest.raises(TooLarge):
        parser.feed(b"x" * 10)
    parser = SseParser()
    for _ in range(10):
        parser.feed(b"data: 0123456789\n")
    with pytest.raises(TooLarge):
        parser.feed(b"d")


class Body:
    """As much of an answer as `payloads` reads."""

    extensions: Mapping[str, object] = MappingProxyType({})
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    async def aiter_bytes(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        for chunk in self.chunks:
            yield chunk


async def test_a_whole_body_is_one_payload_without_the_blank_lines_before_it() -> None:
    """DeepSeek sends blank lines while a request waits."""
    body = Body(b"\n", b"\n\n", b' {"a":', b"\n 1}")
    assert [p async for p in payloads.payloads(body, stream=False)] == [b'{"a":\n 1}']  # type: ignore[arg-type]


async def test_a_stream_is_a_payload_an_event() -> None:
    body = Body(b"data: a\n\nda", b"ta: b")
    assert [p async for p in payloads.payloads(body, stream=True)] == [b"a", b"b"]  # type: ignore[arg-type]


async def test_a_whole_body_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "EVENT_BYTES_MAX", 100)
    with pytest.raises(TooLarge):
        assert not [p async for p in payloads.payloads(Body(b"x" * 60, b"x" * 60), stream=False)]  # type: ignore[arg-type]
