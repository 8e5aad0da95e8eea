"""Events out of bytes, however the network cuts them."""

from __future__ import annotations

import random

import pytest

from daemon.providers import payloads
from daemon.providers.payloads import Payloads, SseParser, TooLarge

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
    """A proxy's HTML holds none; a line of JSON is what a gateway writes when it fails in the middle."""
    assert parsed([b"<html>\n<body>Bad gateway</body>\n</html>\n"]) == []
    assert parsed([b"data: a\n\n", b'{"error": 1}']) == [b"a", b'{"error": 1}']


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


def fed(*chunks: bytes) -> list[bytes]:
    found = Payloads()
    return [payload for chunk in chunks for payload in found.feed(chunk)] + found.end()


def test_the_first_byte_says_what_a_body_is() -> None:
    """Blank lines and a byte order mark before it do not."""
    assert fed(b"\n\n", b" \xef", b"\xbb\xbf", b"\n data: a\n\n") == [b"a"]
    assert fed(b"\n", b"\xef\xbb\xbf ", b'{"a":', b"\n 1}") == [b'{"a":\n 1}']
    assert fed(b"\r\n", b"\xef") == []


BODY = rb'[{"a": "}\"{[\\"}, {"b": {"c": []}},{"d": 1}' + b"\n]\n"
OBJECTS = [rb'{"a": "}\"{[\\"}', b'{"b": {"c": []}}', b'{"d": 1}']


@pytest.mark.parametrize("body", [BODY, b"\n".join(OBJECTS), b"".join(OBJECTS)])
def test_each_document_of_a_body_is_a_payload_wherever_reads_end(body: bytes) -> None:
    """An array, one a line, one after the other."""
    for at in range(len(body)):
        assert fed(body[:at], body[at:]) == OBJECTS
    assert fed(*[body[i : i + 1] for i in range(len(body))]) == OBJECTS


def test_a_document_that_is_cut_is_not_kept_quiet_about() -> None:
    assert fed(b'[{"a": 1}, {"b') == [b'{"a": 1}', b'{"b']


def test_an_event_ends_where_its_json_does() -> None:
    """Some servers leave out the blank line; then text must not wait for the end of the body."""
    found = Payloads()
    assert found.feed(b'data: {"a": 1}\n') == [b'{"a": 1}']
    assert found.feed(b'data: {"b": 2}\ndata: [DONE]') == [b'{"b": 2}']
    assert found.end() == [b"[DONE]"]


def test_an_event_called_error_is_one() -> None:
    assert fed(b'event: error\ndata: {"message": "x"}\n\ndata: {}\n\n') == [b'{"error": {"message": "x"}}', b"{}"]
    assert fed(b'event: error\ndata: no "quota"\n\n') == [b'{"error": "no  quota "}']
    assert fed(b'event: error\ndata: {"error": 1}\n\n') == [b'{"error": 1}']


def test_empty_data_is_no_payload() -> None:
    assert fed(b"data:\n\ndata: \n\n\xef\xbb\xbfdata: x\n\n") == [b"x"]


def test_a_document_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "EVENT_BYTES_MAX", 100)
    with pytest.raises(TooLarge):
        fed(b'{"' + b"x" * 60, b"x" * 60)
