"""Who calls, and what they may: API keys for servers, tokens for browsers.

Keys are held as SHA-256 only and compared in constant time, all of them for every call. A token counts wherever it was
sent: header, `?token=`, or cookie (from pages of our origins only: a cookie comes along with any page's call). Guessing
is slowed down by address. Raises `Refused`; nothing of a key or token is ever logged or told.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from daemon.config.types import SecretStr
from daemon.gateway.rate_limit import RateLimiter
from daemon.gateway.responses import Refused, not_found
from daemon.gateway.tokens import BadToken, Tokens, UploadTicket
from daemon.observability.logging import logger
from daemon.ports import Clock

COOKIE: Final = "task_token"
FAILURES_PER_MINUTE: Final = 30  #: wrong keys and tokens of one address
FAILURES_BURST: Final = 60
_HASHED: Final = "sha256:"

_log = logger("gateway")


class ApiKeys:
    """The keys of `API_KEYS` by name."""

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        self._digests: dict[str, bytes] = {}
        for entry in keys:
            name, _, key = entry.get_secret_value().partition(":")
            hashed = key.startswith(_HASHED)
            self._digests[name] = bytes.fromhex(key[len(_HASHED) :]) if hashed else _digest(key)

    def name_of(self, key: str) -> str | None:
        """Whose key this is; takes the same time for every answer."""
        digest, found = _digest(key), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def address_of(request: web.Request) -> str:
    """The client's address: as the proxy on this host names it last, else the other end of the connection."""
    remote = request.remote or "unknown"
    try:
        beside = ipaddress.ip_address(remote).is_loopback
    except ValueError:  # a UNIX socket: whoever may open it is the proxy
        beside = True
    if beside:
        claimed = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        try:
            return str(ipaddress.ip_address(claimed))
        except ValueError:
            return remote
    return remote


class Access:
    """Judges one call at a time."""

    def __init__(self, keys: ApiKeys, tokens: Tokens, origins: Collection[str], clock: Clock) -> None:
        self._keys = keys
        self._tokens = tokens
        self._origins = frozenset(origins)
        self._failures = RateLimiter(clock, FAILURES_PER_MINUTE, FAILURES_BURST)

    def caller(self, request: web.Request) -> str:
        """The name of the API key. 401 for anything else."""
        name = self._key_name(request)
        if name is None:
            raise self._failed(request, "no API key of ours")
        return name

    def viewer(self, request: web.Request, task_id: str) -> None:
        """A token for this very task. 401: none that we made; 404: one for another task."""
        try:
            opened = self._tokens.task_of(self._token(request))
        except BadToken as flaw:
            raise self._failed(request, str(flaw)) from None
        if opened != task_id:
            raise not_found()

    def caller_or_viewer(self, request: web.Request, task_id: str) -> str | None:
        """The name of the API key, or None for a viewer with a token for this very task."""
        name = self._key_name(request)
        if name is None:
            self.viewer(request, task_id)
        return name

    def uploader(self, request: web.Request) -> UploadTicket:
        """The upload ticket. 401 for anything else."""
        try:
            return self._tokens.upload_of(self._token(request))
        except BadToken as flaw:
            raise self._failed(request, str(flaw)) from None

    def _key_name(self, request: web.Request) -> str | None:
        given = request.headers.get("X-API-Key") or _bearer(request)
        return self._keys.name_of(given) if given else None

    def _token(self, request: web.Request) -> str:
        given = _bearer(request) or request.query.get("token", "")
        if not given and self._of_our_origin(request):
            given = request.cookies.get(COOKIE, "")
        if not given:
            raise BadToken("none was sent")
        return given

    def _of_our_origin(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            return request.headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin", "same-site"}
        return origin in self._origins or urlsplit(origin).netloc == request.host

    def _failed(self, request: web.Request, why: str) -> Refused:
        wait_s = self._failures.wait_s(address_of(request))
        if wait_s:
            return Refused(429, "RATE_LIMITED", "too many failures from this address", retry_after_s=wait_s)
        return Refused(401, "UNAUTHORIZED", "a valid key or token is needed", why=why)


def _bearer(request: web.Request) -> str:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""
