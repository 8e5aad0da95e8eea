"""Images in an S3 or R2 bucket (scheme 3): read at run time by a GET that is signed then.

A message carries the key, never a signed URL: it may wait for hours. Keys below `qstreamd/` were given out by
`presign_put`; each belongs to one user and goes with its task. All other keys are the producer's: read, never deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import aiohttp
from yarl import URL

from daemon.blobs.magic import picture
from daemon.blobs.sigv4 import Signer, object_url
from daemon.config import BlobSettings
from daemon.config.types import SecretStr
from daemon.domain.errors import Code, DependencyAway, Rejected, TaskError
from daemon.domain.model_io import Picture
from daemon.ports import Clock

OURS: Final = "qstreamd/"
KEY_BYTES_MAX: Final = 1024  #: what S3 allows
SIGNED_FOR_S: Final = 60  #: a read begins at once
DROP_S: Final = 2.0  #: a task that is over waits for its images' end no longer
CONNECTIONS_MAX: Final = 32
EXTENSIONS: Final = MappingProxyType(
    {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif"}
)
_LATER: Final = frozenset({408, 425, 429})
_ERROR_CODE: Final = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")


class BucketAway(DependencyAway):
    """The bucket can't be reached or did not answer within its limit."""


class S3Blobs:
    """The `Blobs` port for `key:` references, and who signs uploads. `aclose` when done; may be used again after it."""

    def __init__(self, settings: BlobSettings, clock: Clock) -> None:
        """All four S3_* settings must be given (`has_bucket`)."""
        self._settings = settings
        self._clock = clock
        self._endpoint, self._bucket = settings.s3_endpoint_url or "", settings.s3_bucket or ""
        access_key_id = settings.s3_access_key_id.get_secret_value() if settings.s3_access_key_id else ""
        self._signer = Signer(access_key_id, settings.s3_secret_access_key or SecretStr(""), settings.s3_region)
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections; may be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def read(self, reference: str, user_id: str) -> Picture:
        """The picture. Raises `Rejected` (IMAGE_NOT_FOUND for 403 and 404; IMAGE_REJECTED), and STORE_ERROR."""
        key = _key(reference, user_id)
        try:
            async with asyncio.timeout(self._settings.s3_timeout_s), self._call("GET", key) as response:
                if response.status != 200:
                    raise await _failure(response)
                return picture(await self._body(response))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _away(type(error).__name__) from None  # its text may hold the signed URL

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        """Delete those that we gave out; the producer's own stay. Raises `BucketAway`; repeatable."""
        for reference in references:
            key = reference.partition(":")[2]
            if not key.startswith(_prefix(user_id)):
                continue
            try:
                async with asyncio.timeout(DROP_S), self._call("DELETE", key) as response:
                    status = response.status
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise BucketAway(f"the bucket: {type(error).__name__}") from None
            if status not in {200, 204, 404}:
                raise BucketAway(f"the bucket answered {status} to a DELETE")

    def presign_put(self, user_id: str, mime_type: str, size: int, expires_s: int) -> tuple[str, str]:
        """A new `fileKey` of that user, and the URL that takes a PUT of exactly this type and size for `expires_s`."""
        key = f"{_prefix(user_id)}{secrets.token_urlsafe(16)}.{EXTENSIONS[mime_type]}"
        headers = {"Content-Type": mime_type, "Content-Length": str(size)}
        return key, self._signed("PUT", key, expires_s, headers)

    def _signed(self, method: str, key: str, expires_s: int, headers: dict[str, str] | None = None) -> str:
        url = object_url(self._endpoint, self._bucket, key)
        return self._signer.presigned(method, url, now=self._clock.time(), expires_s=expires_s, headers=headers)

    def _call(self, method: str, key: str) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=self._settings.s3_timeout_s),
            )
        url = URL(self._signed(method, key, SIGNED_FOR_S), encoded=True)
        return self._session.request(method, url, allow_redirects=False)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        most, data = self._settings.upload_bytes_max, bytearray()
        if (response.content_length or 0) <= most:
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > most:
                    break
            else:
                return bytes(data)
        raise Rejected(f"image: has more than the {most} bytes that are allowed", code=Code.IMAGE_REJECTED)


def _key(reference: str, user_id: str) -> str:
    """The key, if it is one and this user's. What we gave to another user looks like a missing one."""
    key = reference.partition(":")[2]
    parts = key.split("/")
    odd = not key.isprintable() or "\\" in key or len(key.encode("utf-8", "replace")) > KEY_BYTES_MAX
    if odd or any(part in {"", ".", ".."} for part in parts):
        raise Rejected("fileKey: is not the key of an object", code=Code.IMAGE_REJECTED)
    if key.startswith(OURS) and not key.startswith(_prefix(user_id)):
        raise Rejected(code=Code.IMAGE_NOT_FOUND, detail="the key was given to another user")
    return key


def _prefix(user_id: str) -> str:
    return f"{OURS}{hashlib.sha256(user_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}/"


async def _failure(response: aiohttp.ClientResponse) -> TaskError:
    """What an answer other than 200 means. Its code is for operators; the rest of its body shows account and bucket."""
    found = _ERROR_CODE.search(await response.content.read(4096))
    detail = f"the bucket answered {response.status} {found[1].decode() if found else ''}".rstrip()
    if response.status >= 500 or response.status in _LATER:
        return _away(detail)
    return Rejected(code=Code.IMAGE_NOT_FOUND, detail=detail)


def _away(detail: str) -> TaskError:
    return TaskError("The image could not be read just now.", code=Code.STORE_ERROR, detail=detail)
