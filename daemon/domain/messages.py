"""The task message and the entry of a work stream, with their wire names: the code's single source of protocol 1 to 4.

`docs/protocol.md`, the JSON Schemas and the TypeScript types are generated from here and from `events`, `queues` and
`states` beside it. Everything is immutable. Nothing here does input or output, reads a clock or knows an adapter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from daemon.domain.errors import Rejected
from daemon.domain.events import Usage
from daemon.domain.queues import Tier

CONTRACT_VERSION: Final = 1
BODY_BYTES_MAX: Final = 1024 * 1024  # QStash's free tier carries 1 MB; the whole body counts
INLINE_BASE64_BYTES_MAX: Final = 800 * 1024  # all inline images of a task together, as base64
IMAGES_MAX: Final = 8
REFS_MAX: Final = 16
REF_LENGTH_MAX: Final = 128  # characters, of a key and of a value
ATTEMPTS_MAX: Final = 10
UNIX_SECONDS_MAX: Final = 100_000_000_000  # beyond it somebody sent milliseconds
ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
SERVICE_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,63}$"

TASK_ID: Final = re.compile(ID_PATTERN)
#: group 1: JSON without half a surrogate pair; what is left over between its matches are the halves
_WHOLE: Final = re.compile(
    rb"((?:[^\\]++|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\(?!u[dD][89a-fA-F])[\s\S])++)"
    rb"|\\u[dD][89a-fA-F][\da-fA-F]{2}"
)


class ImageRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """One image: exactly one of `data` (inline base64), `file_id` (uploaded), `file_key` (object storage)."""

    data: str | None = None
    mime_type: str | None = None
    file_id: str | None = None
    file_key: str | None = None
    blob: str | None = None  #: ours: where the relay laid the bytes of an inline image; refused from a producer


class TaskMessage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True, kw_only=True
):
    """The JSON body of a delivery once the route filled in `queueId`, `serviceId`, `v` and a schedule's `taskId`."""

    v: int = CONTRACT_VERSION
    task_id: str
    queue_id: str
    service_id: str
    user_id: str
    job_id: str | None = None
    refs: dict[str, str] | None = None
    model_id: str | None = None
    tier: Tier | None = None
    template_id: str | None = None
    variables: dict[str, Any] | None = None
    images: list[ImageRef] | None = None
    request_id: str | None = None
    trace_id: str | None = None
    expires_at: float | None = None
    counted: bool = False
    max_attempts: int | None = None

    @property
    def id_first(self) -> bool:
        """True when the input must be loaded from `qstreamd.task_context`."""
        return self.variables is None and not self.images


class WorkEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """What one work-stream entry carries, as JSON in its single field `task`; the same JSON lies in `:held`.

    Unknown fields are kept out of the way of older daemons (not refused), so a newer release may add some.
    """

    message: TaskMessage
    sha256: str  #: of the canonical message as accepted, inline images included
    accepted_at: int  #: unix ms, the relay's clock; the age that waiting orders by
    parked: str = ""  #: the `Reason` of the last parking; "" if never parked
    parked_at: int = 0  #: unix ms when the present wait began; 0: it does not wait
    traceparent: str = ""  #: of the call that published it (W3C); "" if it named none
    cut_models: list[str] = []  #: models that cut an answer of this task at its limit: the others are asked first
    spent: Usage | None = None  #: what earlier attempts are known to have cost


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """What every event and log line of a task carries."""

    task_id: str
    queue_id: str
    request_id: str
    trace_id: str


class Origin(msgspec.Struct, frozen=True, rename="camel"):
    """What a row of a task needs and its events do not tell; noted beside them at each start."""

    entry_id: str
    service_id: str
    user_id: str
    tier: str | None
    sha256: str


def identity_of(message: TaskMessage) -> TaskIdentity:
    """The identity of a task. Ids that the producer left out are made from the task id, so relay and daemon agree."""
    m, made_up = message, hashlib.sha256(message.task_id.encode()).hexdigest()[:32]
    return TaskIdentity(m.task_id, m.queue_id, m.request_id or f"r_{made_up[:16]}", m.trace_id or made_up)


def read_body(raw: bytes) -> Any:
    """The JSON in `raw`; half a surrogate pair, as `text.slice(0, n)` leaves of an emoji, is read as U+FFFD.

    Raises `ValueError`, or `RecursionError` for what is nested too deeply.
    """
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return msgspec.json.decode(_WHOLE.sub(lambda found: found[1] or rb"\ufffd", raw))


def canonical_sha256(body: Mapping[str, Any]) -> str:
    """The identity of an accepted body: hex SHA-256 of its canonical JSON without `requestId` and `traceId`.

    `body` is the decoded JSON object after the route filled in queue, service and `v` (protocol 4, `seen`).
    """
    kept = {k: v for k, v in body.items() if k not in ("requestId", "traceId")}
    return hashlib.sha256(msgspec.json.encode(kept, order="sorted")).hexdigest()


def content_sha256(text: str) -> str:
    """`contentSha256` of protocol 5: lower-case hex over the UTF-8 of the raw answer text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


#: characters of each text field of a message
TEXT_LIMITS: Final = {"userId": 128, "jobId": 128, "requestId": 128, "traceId": 128, "modelId": 128, "templateId": 128}


def parse_message(body: Mapping[str, Any]) -> TaskMessage:
    """The typed message, or `Rejected` naming the field, the value and what was allowed.

    `body` is a decoded JSON object in which the route already filled in `queueId` and `serviceId`. Called by the relay
    and again by the daemon, which trusts nothing it reads. The version must have been judged before: a newer `v` is
    not an error but a 503.
    """
    try:
        message = msgspec.convert(body, TaskMessage)
    except msgspec.ValidationError as error:
        raise Rejected(f"message: {error}") from error
    check_message(message)
    return message


def check_message(message: TaskMessage) -> None:
    """Raises `Rejected` for what types alone can't say: patterns, lengths, ranges, one form an image.

    Part of `parse_message`; asked again by the daemon of every entry it reads.
    """
    _check_ids(message)
    _check_texts(message)
    _check_numbers(message)
    for at, image in enumerate(message.images or ()):
        _check_image_form(at, image)


def _refuse(name: str, value: object, allowed: str) -> Rejected:
    return Rejected(f"{name}: {str(value)[:80]!r} is not allowed; allowed: {allowed}")


def _check_ids(m: TaskMessage) -> None:
    if not TASK_ID.fullmatch(m.task_id):  # `$` alone would let a final newline through
        raise _refuse("taskId", m.task_id, ID_PATTERN)
    if not re.fullmatch(SERVICE_PATTERN, m.service_id):
        raise _refuse("serviceId", m.service_id, SERVICE_PATTERN)
    if not m.user_id:
        raise _refuse("userId", m.user_id, "1 to 128 characters")


def _check_texts(m: TaskMessage) -> None:
    values = {
        "userId": m.user_id, "jobId": m.job_id, "requestId": m.request_id, "traceId": m.trace_id,
        "modelId": m.model_id, "templateId": m.template_id,
    }  # fmt: skip
    for name, value in values.items():
        if value is not None and len(value) > TEXT_LIMITS[name]:
            raise _refuse(name, value, f"at most {TEXT_LIMITS[name]} characters")
        if value is not None and "\x00" in value:
            raise _refuse(name, value, "no NUL character")  # Postgres text can't hold it
    refs = m.refs or {}
    if len(refs) > REFS_MAX:
        raise _refuse("refs", f"{len(refs)} entries", f"at most {REFS_MAX} entries")
    for key, ref in refs.items():
        if len(key) > REF_LENGTH_MAX or len(ref) > REF_LENGTH_MAX or "\x00" in key + ref:
            raise _refuse(f"refs.{key[:40]}", ref, f"keys and values of at most {REF_LENGTH_MAX} characters, no NUL")


def _check_numbers(m: TaskMessage) -> None:
    if m.v < 1:
        raise _refuse("v", m.v, f"1 to {CONTRACT_VERSION}")
    if m.max_attempts is not None and not 1 <= m.max_attempts <= ATTEMPTS_MAX:
        raise _refuse("maxAttempts", m.max_attempts, f"1 to {ATTEMPTS_MAX}")
    if m.expires_at is not None and not 0 <= m.expires_at < UNIX_SECONDS_MAX:
        raise _refuse("expiresAt", m.expires_at, "unix seconds")
    if len(m.images or ()) > IMAGES_MAX:
        raise _refuse("images", f"{len(m.images or ())} images", f"at most {IMAGES_MAX}")


def _check_image_form(at: int, image: ImageRef) -> None:
    given = [n for n in ("data", "file_id", "file_key", "blob") if getattr(image, n) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise Rejected(f"images[{at}]: has {found} of data, fileId, fileKey; exactly one is allowed")
