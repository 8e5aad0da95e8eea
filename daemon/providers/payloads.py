"""The JSON payloads of an answer's body, whatever carries them: server-sent events, or JSON documents.

Which of the two is judged by the first byte, not by the header: gateways answer JSON where a stream was asked, and the
other way round. Decodes nothing, except that it knows where a JSON document ends. Why no library parses the events:
docs/decisions/0008-sse-parser.md.
"""

from __future__ import annotations

import re
from typing import Final

from daemon.domain.errors import ProviderError

EVENT_BYTES_MAX: Final = 8 * 1024 * 1024  #: one event with its lines, or one document; a chunk of a model: under 10 KiB
BOM: Final = b"\xef\xbb\xbf"
DONE: Final = b"[DONE]"
_BLANK: Final = b" \t\r\n"


class TooLarge(ProviderError):
    """One event or answer is larger than we are willing to hold."""

    def __init__(self, what: str) -> None:
        super().__init__(detail=f"unreadable answer: {what} is larger than {EVENT_BYTES_MAX >> 20} MiB")


class Payloads:
    r"""Feed bytes as they arrive; take the payloads they complete.

    >>> Payloads().feed(b'data: {"a": 1}\n\n'), Payloads().feed(b'[{"a": 1}, {"b"')
    ([b'{"a": 1}'], [b'{"a": 1}'])
    """

    __slots__ = ("_head", "_inner")

    def __init__(self) -> None:
        self._head = b""
        self._inner: SseParser | JsonDocuments | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that `chunk` completes. Raises `TooLarge`."""
        return self._begin(chunk) if self._inner is None else self._inner.feed(chunk)

    def end(self) -> list[bytes]:
        """What the end of the body completes: the last line end, or more, may be missing."""
        return [] if self._inner is None else self._inner.end()

    @property
    def waits(self) -> bool:
        """Whether an event has begun whose end is not here."""
        return self._inner is not None and self._inner.waits

    @property
    def unfinished(self) -> bytes:
        """That event as it would be if it ended here."""
        return self._inner.unfinished if isinstance(self._inner, SseParser) else b""

    @property
    def is_document(self) -> bool:
        """Whether the body is JSON, not a stream of events."""
        return isinstance(self._inner, JsonDocuments)

    def _begin(self, chunk: bytes) -> list[bytes]:
        """Blank lines and byte order marks before the first byte say nothing. DeepSeek sends them while it waits."""
        head = (self._head + chunk).lstrip(_BLANK)
        while head.startswith(BOM):
            head = head[3:].lstrip(_BLANK)
        if not head or BOM.startswith(head):
            self._head = head
            return []
        self._inner = JsonDocuments() if head[:1] in b"{[" else SseParser()
        return self._inner.feed(head)


class SseParser:
    r"""Server-sent events, as strict as their senders are.

    Comments, `id:` and `retry:` vanish; lines end with LF, CRLF or CR. A line that looks like a whole JSON document is
    a payload at once: some servers leave out the blank line that ends an event. What an `event: error` carries becomes
    `{"error": …}`. A line that begins with `{` is a payload too: what a gateway writes into a stream when it fails.

    >>> parser = SseParser()
    >>> parser.feed(b': keep-alive\n\ndata: {"a"'), parser.feed(b': 1}\r\n\r\n')
    ([], [b'{"a": 1}'])
    """

    __slots__ = ("_data", "_failed", "_held", "_rest")

    def __init__(self) -> None:
        self._rest = b""  #: an unfinished line
        self._data: list[bytes] = []  #: lines of an unfinished event
        self._held = 0  #: bytes in `_data`
        self._failed = False  #: this event is called `error`

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that `chunk` completes. Raises `TooLarge`."""
        text = self._rest + chunk if self._rest else chunk
        if text.endswith(b"\n"):
            self._rest = b""
            return self._lines(text.splitlines())
        # \r\n may be cut in two by a read: a trailing \r waits for what follows
        cut = max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1
        self._rest = text[cut:]
        if len(self._rest) + self._held > EVENT_BYTES_MAX:
            raise TooLarge("an event")
        return self._lines(text[:cut].splitlines()) if cut else []

    @property
    def waits(self) -> bool:
        """Whether an event has begun whose end is not here."""
        return bool(self._rest or self._data)

    @property
    def unfinished(self) -> bytes:
        """That event as it would be if it ended here."""
        last = self._rest.strip().removeprefix(b"data:").strip()
        return b"\n".join([*self._data, last] if last else self._data)

    def end(self) -> list[bytes]:
        """What the end of the body completes: some servers leave out the last line end."""
        lines, self._rest = self._rest.splitlines(), b""
        return self._lines([*lines, b""])

    def _lines(self, lines: list[bytes]) -> list[bytes]:
        found: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                value = line[5:].strip()
                if self._data and value.startswith(b"{") and not self._failed and not _begun(self._data[0]):
                    self._dispatch(found)  # a word whose event did not end: what follows is no part of it
                if self._data or self._failed or not value.endswith((b"}", DONE)):
                    self._hold(value)
                else:
                    found.append(value)
            elif not line:
                if self._data or self._failed:
                    self._dispatch(found)
            else:
                self._odd(line, found)
        return found

    def _hold(self, value: bytes) -> None:
        if value:
            self._data.append(value)
            self._held += len(value)
            if self._held > EVENT_BYTES_MAX:
                raise TooLarge("an event")

    def _dispatch(self, found: list[bytes]) -> None:
        data = b"\n".join(self._data)
        if data:
            found.append(_as_error(data) if self._failed else data)
        self._data, self._held, self._failed = [], 0, False

    def _odd(self, line: bytes, found: list[bytes]) -> None:
        """A line that begins neither with `data:` nor with nothing."""
        plain = line.removeprefix(BOM).strip(_BLANK)
        if plain.startswith(b"event:"):
            self._failed = plain[6:].strip() == b"error"
        elif plain.startswith(b"{") and not self._data:
            found.append(plain)
        elif plain != line and plain.startswith(b"data:"):
            found.extend(self._lines([plain]))


def _begun(line: bytes) -> bool:
    """Whether a line may be the first of a document that goes over several."""
    return line.startswith((b"{", b"[", b'"'))


def _as_error(data: bytes) -> bytes:
    """What an event called `error` says, as the other errors inside answers are spelled."""
    if data.startswith(b"{") and data.endswith(b"}"):
        return data if b'"error"' in data else b'{"error": ' + data + b"}"
    words = data.decode("utf-8", "replace").replace("\\", " ").replace('"', " ")
    return b'{"error": "' + words.encode("utf-8", "replace") + b'"}'


_TO_BRACE: Final = re.compile(rb'[^{}"]*')
_IN_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)


class JsonDocuments:
    r"""The objects of a body of JSON, each as soon as its last brace is here: one, an array of them, or one a line.

    >>> JsonDocuments().feed(b'[{"a": "}"},\r\n{"b": 2}]')
    [b'{"a": "}"}', b'{"b": 2}']
    """

    __slots__ = ("_at", "_depth", "_quoted", "_text")
    waits = False  #: an object ends with its last brace, nothing after it is waited for

    def __init__(self) -> None:
        self._text = bytearray()  #: from the first brace of an unfinished object
        self._at = 0  #: where reading goes on
        self._depth = 0
        self._quoted = False  #: inside a string

    def feed(self, chunk: bytes) -> list[bytes]:
        """The objects that `chunk` completes. Raises `TooLarge`."""
        text, found = self._text, []
        text += chunk
        while self._at < len(text):
            self._at = (_IN_STRING if self._quoted else _TO_BRACE).match(text, self._at).end()  # type: ignore[union-attr]  # both match nothing too
            if self._at == len(text) or text[self._at] == 0x5C:  # an escape that is cut in two waits
                break
            if whole := self._step():
                found.append(whole)
        if len(text) > EVENT_BYTES_MAX:
            raise TooLarge("a document")
        return found

    def end(self) -> list[bytes]:
        """An object that was cut is a payload that can't be read, so that nobody takes what came for all of it."""
        rest, self._text, self._at = bytes(self._text), bytearray(), 0
        return [rest] if self._depth else []

    def _step(self) -> bytes:
        """Past one quote or brace; the object, if that was its end."""
        byte, self._at = self._text[self._at], self._at + 1
        if byte == 0x22:
            self._quoted = not self._quoted and self._depth > 0
        elif byte == 0x7B:
            if self._depth == 0:
                del self._text[: self._at - 1]
                self._at = 1
            self._depth += 1
        elif self._depth:
            self._depth -= 1
            if self._depth == 0:
                whole = bytes(self._text[: self._at])
                del self._text[: self._at]
                self._at = 0
                return whole
        return b""
