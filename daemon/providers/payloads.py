"""The JSON payloads of an answer: one for each server-sent event, or the whole body. Judges and decodes nothing.

Comments (`: keep-alive`), `event:`, `id:` and `retry:` lines vanish. Lines end with LF, CRLF or CR. To one vendor's SDK
a comment is an error, and both spend far more time around a chunk than this takes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import httpx2

BODY: Final = "qstreamd_body"  #: extension of a response of `transport`: its body, an iterator of bytes
EVENT_BYTES_MAX: Final = 8 * 1024 * 1024  #: one event with its lines; a chunk of a model is under 10 KiB


class TooLarge(ValueError):
    """One event or answer is larger than we are willing to hold."""


async def payloads(response: httpx2.Response, *, stream: bool) -> AsyncGenerator[bytes, None]:
    """The payloads as they arrive; without `stream` one. Raises `TooLarge` and httpx2's errors; closes nothing."""
    if stream:
        parser = SseParser()
        async for chunk in _arriving(response):
            for data in parser.feed(chunk):
                yield data
        for data in parser.end():
            yield data
        return
    whole = bytearray()
    async for chunk in response.aiter_bytes():
        whole += chunk if whole else chunk.lstrip()  # DeepSeek sends blank lines while a request waits
        if len(whole) > EVENT_BYTES_MAX:
            raise TooLarge("an answer is larger than 8 MiB")
    yield bytes(whole)


def _arriving(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body as our transport reads it; the response's own layers, a third of a chunk's cost, only to decompress."""
    body: AsyncIterator[bytes] | None = response.extensions.get(BODY)
    plain = response.headers.get("Content-Encoding", "identity") == "identity"
    return response.aiter_bytes() if body is None or not plain else body


class SseParser:
    r"""Feed bytes as they arrive; take the payloads they complete.

    >>> parser = SseParser()
    >>> parser.feed(b': keep-alive\n\ndata: {"a"'), parser.feed(b': 1}\r\n\r\n')
    ([], [b'{"a": 1}'])
    """

    __slots__ = ("_data", "_held", "_rest")

    def __init__(self) -> None:
        self._rest = b""  #: an unfinished line
        self._data: list[bytes] = []  #: the `data:` lines of an unfinished event
        self._held = 0  #: bytes in `_data`

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that `chunk` completes. Raises `TooLarge`."""
        # \r\n may be cut in two by a read: a trailing \r waits for what follows
        text = self._rest + chunk
        cut = max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1
        self._rest = text[cut:]
        if len(self._rest) + self._held > EVENT_BYTES_MAX:
            raise TooLarge("an event is larger than 8 MiB")
        return self._lines(text[:cut].splitlines()) if cut else []

    def end(self) -> list[bytes]:
        """What the end of the body completes: some servers leave out the last blank line."""
        lines, self._rest = self._rest.splitlines(), b""
        return self._lines([*lines, b""])

    def _lines(self, lines: list[bytes]) -> list[bytes]:
        found: list[bytes] = []
        for line in lines:
            if not line:
                if self._data:
                    found.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                    self._data, self._held = [], 0
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._data.append(value)
                self._held += len(value)
        return found
