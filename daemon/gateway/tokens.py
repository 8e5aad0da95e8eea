"""Short tokens for browsers: JWT, HS256, `TASK_TOKEN_SECRET` (protocol 6). Next.js may make them too.

A task token opens one task (`sub` is its id); an upload ticket (`scope` is `upload`) lets one user (`sub`) upload.
Which flaw a token has is for our log only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import jwt

from daemon.config.types import SecretStr
from daemon.domain.errors import QstreamdError
from daemon.domain.messages import TASK_ID
from daemon.ports import Clock

LEEWAY_S: Final = 30  #: clock skew between hosts
TOKEN_CHARS_MAX: Final = 4096
_USER_CHARS_MAX: Final = 128


class BadToken(QstreamdError):
    """Nobody we know made it for this, or its time is over; the flaw is its text."""


@dataclass(frozen=True, slots=True)
class UploadTicket:
    """Who may upload, and how much in one file (None: as much as the gateway takes)."""

    user_id: str
    bytes_max: int | None


class Tokens:
    """Makes and reads tokens of one secret."""

    def __init__(self, secret: SecretStr, clock: Clock, ttl_s: float) -> None:
        self._secret = secret.get_secret_value().encode()
        self._clock = clock
        self._ttl_s = ttl_s

    def task_token(self, task_id: str, ttl_s: float | None = None) -> str:
        """A token for one task, valid for `ttl_s` (None: the setting)."""
        return self._signed({"sub": task_id, "scope": "task"}, self._ttl_s if ttl_s is None else ttl_s)

    def upload_ticket(self, user_id: str, bytes_max: int | None = None, ttl_s: float = 300.0) -> str:
        """A ticket for one user's uploads."""
        claims: dict[str, Any] = {"sub": user_id, "scope": "upload"}
        if bytes_max is not None:
            claims["maxBytes"] = bytes_max
        return self._signed(claims, ttl_s)

    def task_of(self, token: str) -> str:
        """The task that this token opens. Raises `BadToken`."""
        claims = self._claims(token)
        if claims.get("scope", "task") != "task":
            raise BadToken("not a task token")
        if not TASK_ID.fullmatch(claims["sub"]):
            raise BadToken("sub is not a task id")
        return str(claims["sub"])

    def upload_of(self, token: str) -> UploadTicket:
        """Whose uploads this ticket allows. Raises `BadToken`."""
        claims = self._claims(token)
        bytes_max = claims.get("maxBytes")
        if claims.get("scope") != "upload":
            raise BadToken("not an upload ticket")
        if not 0 < len(claims["sub"]) <= _USER_CHARS_MAX or "\x00" in claims["sub"]:
            raise BadToken("sub is not a user id")
        if bytes_max is not None and (type(bytes_max) is not int or bytes_max < 1):
            raise BadToken("maxBytes is not a number of bytes")
        return UploadTicket(str(claims["sub"]), bytes_max)

    def _signed(self, claims: dict[str, Any], ttl_s: float) -> str:
        now = self._clock.time()
        return jwt.encode({**claims, "iat": int(now), "exp": int(now + ttl_s)}, self._secret, algorithm="HS256")

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_CHARS_MAX:
            raise BadToken("too long")
        try:
            # Times are judged below, by our clock. `iat` may lie in the future: hosts disagree.
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                options={"require": ["sub", "exp"], "verify_exp": False, "verify_nbf": False, "verify_iat": False,
                         "verify_aud": False, "verify_iss": False},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise BadToken(type(error).__name__) from None
        now = self._clock.time()
        expires, begins = claims["exp"], claims.get("nbf", 0)
        if not _is_number(expires) or expires <= now - LEEWAY_S:
            raise BadToken("expired")
        if not _is_number(begins) or begins > now + LEEWAY_S:
            raise BadToken("not valid yet")
        return claims


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
