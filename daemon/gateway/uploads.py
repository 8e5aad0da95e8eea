"""Images on their way in: `POST /api/uploads` (scheme 2, to this host's disk), `POST /api/uploads/presign` (scheme 3).

An upload ticket says whose they are. An upload is streamed to disk and judged there; a body of any size holds one chunk
in memory. What is refused is read off no further: 413 too large, 415 no picture, 507 no room, each before the end of
the body when that is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from aiohttp import BodyPartReader, ClientError, web

from daemon.blobs.disk import DiskBlobs, TooLarge
from daemon.blobs.s3 import EXTENSIONS, S3Blobs
from daemon.config import BlobSettings
from daemon.domain.errors import Code, DiskFull, Rejected
from daemon.gateway.access import Access
from daemon.gateway.rate_limit import RateLimiter
from daemon.gateway.responses import Refused, json_answer
from daemon.gateway.tokens import UploadTicket
from daemon.observability.metrics import Metrics
from daemon.ports import Clock

READ_BYTES: Final = 64 * 1024
FORM_BYTES: Final = 64 * 1024  #: what a form may add around its file
_CUT_OFF: Final = (ClientError, web.RequestPayloadError, ConnectionError)
FULL_RETRY_S: Final = 60  #: images go with their tasks


class Wish(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a presign call: what the browser is about to send."""

    mime_type: str
    bytes: int


class Uploads:
    """The routes of images. `disk` None: BLOB_STORE=s3; `bucket` None: no bucket is configured."""

    def __init__(
        self,
        access: Access,
        disk: DiskBlobs | None,
        bucket: S3Blobs | None,
        settings: BlobSettings,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._access = access
        self._disk = disk
        self._bucket = bucket
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._rate = RateLimiter(clock, settings.uploads_per_minute, settings.uploads_per_minute)

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.post("/api/uploads", self.upload), web.post("/api/uploads/presign", self.presign)]

    async def upload(self, request: web.Request) -> web.Response:
        """The bytes of one image, as the body or as the first file of a form."""
        ticket = self._ticket(request)
        if self._disk is None:
            raise Refused(501, "NOT_CONFIGURED", "images go to the bucket here: POST /api/uploads/presign")
        bytes_max = min(self._settings.upload_bytes_max, ticket.bytes_max or self._settings.upload_bytes_max)
        form = request.content_type == "multipart/form-data"
        expected = request.content_length
        if expected is not None and form:
            expected = max(expected - FORM_BYTES, 1) if expected > bytes_max else expected
        try:
            async with asyncio.timeout(self._settings.upload_timeout_s):
                file_id, _ = await self._disk.take(
                    ticket.user_id, _file_of(request) if form else _body_of(request),
                    bytes_max=bytes_max, expected=expected,
                )  # fmt: skip
        except (Rejected, DiskFull, TimeoutError, *_CUT_OFF, ValueError) as problem:
            raise self._refused(problem) from problem
        self._metrics.uploads.labels("stored").inc()
        return json_answer(202, {"fileId": file_id, "expiresAt": int(self._clock.time() + self._settings.upload_ttl_s)})

    async def presign(self, request: web.Request) -> web.Response:
        """A URL to PUT one image of a named type and size to."""
        ticket = self._ticket(request)
        if self._bucket is None:
            raise Refused(501, "NOT_CONFIGURED", "no bucket here: POST /api/uploads")
        try:
            wish = msgspec.json.decode(await request.read(), type=Wish)
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or not a wish
            raise Refused(400, Code.INVALID_PAYLOAD, str(error)[:200]) from None
        bytes_max = min(self._settings.upload_bytes_max, ticket.bytes_max or self._settings.upload_bytes_max)
        if wish.mime_type not in EXTENSIONS:
            raise self._refused(Rejected(f"mimeType: allowed: {', '.join(EXTENSIONS)}", code=Code.IMAGE_REJECTED))
        if not 0 < wish.bytes <= bytes_max:
            raise self._refused(TooLarge(f"bytes: allowed: 1 to {bytes_max}"))
        ttl_s = self._settings.s3_presign_ttl_s
        expires_at = int(self._clock.time()) + ttl_s
        key, url = self._bucket.presign_put(ticket.user_id, wish.mime_type, wish.bytes, ttl_s)
        self._metrics.uploads.labels("presigned").inc()
        headers = {"Content-Type": wish.mime_type}
        return json_answer(202, {"fileKey": key, "url": url, "headers": headers, "expiresAt": expires_at})

    def _ticket(self, request: web.Request) -> UploadTicket:
        ticket = self._access.uploader(request)
        wait_s = self._rate.wait_s(ticket.user_id)
        if wait_s:
            self._metrics.uploads.labels("limited").inc()
            raise Refused(429, Code.RATE_LIMITED, "too many uploads of this user", retry_after_s=wait_s)
        return ticket

    def _refused(self, problem: Exception) -> Refused:
        match problem:
            case TooLarge():
                outcome, refused = "too_large", Refused(413, problem.code, problem.message)
            case Rejected():
                outcome, refused = "rejected", Refused(415, problem.code, problem.message)
            case DiskFull():
                text = "no room for images now; please try again later"
                outcome, refused = "full", Refused(507, "NO_ROOM", text, retry_after_s=FULL_RETRY_S, why=str(problem))
            case TimeoutError():
                outcome, refused = "cut", Refused(408, "TOO_SLOW", "the image did not arrive in time")
            case _:
                outcome, refused = (
                    "cut",
                    Refused(400, "CUT_OFF", "the image did not arrive", why=type(problem).__name__),
                )
        self._metrics.uploads.labels(outcome).inc()
        return refused


async def _body_of(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(READ_BYTES):
        yield chunk


async def _file_of(request: web.Request) -> AsyncIterator[bytes]:
    """The first file of the form; fields before it are read off, what follows is not looked at."""
    form, passed = await request.multipart(), 0
    while (part := await form.next()) is not None:
        if not isinstance(part, BodyPartReader):
            raise Rejected("image: a form inside the form", code=Code.IMAGE_REJECTED)
        while chunk := await part.read_chunk(READ_BYTES):
            if part.filename is not None:
                yield chunk
                continue
            passed += len(chunk)
            if passed > FORM_BYTES:
                raise Rejected("image: the form's other fields are too large", code=Code.IMAGE_REJECTED)
        if part.filename is not None:
            return
