"""What a provider answered, as a file that can be sent to somebody else: the form of `tests/conformance/vendor_cases`.

First line: status and content type; then the body, with `<sleep s>` where it paused, `<rst>` where the connection broke
and `<hang>` where the body stayed open. Keys, account and request ids are replaced by as many x, so that every length
and every cut stays where it was. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from daemon.admin.trial.recorder import Exchange

PAUSE_S: Final = 0.5  #: shorter ones are not told
SECRET_CHARS_MIN: Final = 6
#: forms of keys and ids that vendors write into answers and errors
_IDS: Final = re.compile(
    rb"\b(?:sk|rk|pk|sess)-[\w*.-]{4,}|\bAIza[\w-]{10,}|\bBearer\s+[\w.~+/=-]{8,}|\b(?:org|proj|user|req|acct|key)[-_][\w-]{4,}"
    rb"|\bprojects?/[\w-]+|\bproject[_ ]number[\":\s]*\d+|\bconsumer[\":\s]+[\w/:-]+|[\w.+-]+@[\w-]+\.[\w.]+"
    rb"|\b\d{1,3}(?:\.\d{1,3}){3}\b|\beyJ[\w-]{10,}(?:\.[\w-]+)*",
    re.IGNORECASE,
)
#: fields whose value names a call, an account or a session
_FIELDS: Final = re.compile(
    rb'("(?:id|responseId|response_id|request_id|requestId|system_fingerprint|thoughtSignature|thought_signature|user|organization'
    rb'|org_id|project|project_id|account_id|safety_identifier|trace_id|consumer)"\s*:\s*")((?:[^"\\]|\\.)*)'
)
_WORD: Final = re.compile(rb"[A-Za-z0-9]")


def redacted(text: bytes, secrets: Iterable[str] = ()) -> bytes:
    """`text` with keys and ids replaced, of the same length.

    >>> redacted(b'{"id": "chatcmpl-9aB", "error": "Incorrect API key provided: sk-abcd1234"}')
    b'{"id": "xxxxxxxx-xxx", "error": "Incorrect API key provided: xx-xxxxxxxx"}'
    """
    for secret in sorted({s for s in secrets if len(s) >= SECRET_CHARS_MIN}, key=len, reverse=True):
        text = text.replace(secret.encode(), b"x" * len(secret.encode()))
    text = _FIELDS.sub(lambda found: found[1] + _WORD.sub(b"x", found[2]), text)
    return _IDS.sub(lambda found: _WORD.sub(b"x", found[0]), text)


def transcript(exchange: Exchange, secrets: Iterable[str] = ()) -> bytes:
    """The file of one exchange that had a status."""
    head = f"HTTP {exchange.status} Content-Type: {exchange.content_type}\n\n".encode("latin-1", "replace")
    return redacted(head, secrets) + b"".join(_body(exchange, redacted(exchange.body, secrets)))


def _body(exchange: Exchange, text: bytes) -> Iterator[bytes]:
    at, before = 0, None
    for when, data in exchange.chunks:
        if before is not None and when - before >= PAUSE_S:
            yield f"<sleep {when - before:.1f} s>".encode()
        yield text[at : at + len(data)]
        at, before = at + len(data), when
    if exchange.failure is not None:
        yield b"<rst>"
    elif exchange.left_open:
        yield b"<hang>"
