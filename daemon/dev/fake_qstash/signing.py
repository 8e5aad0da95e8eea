"""Signatures as QStash makes them: two rolling keys, a JWT for each attempt; by hand, so that faults can be made."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import string
from dataclasses import dataclass, field
from typing import Final

TOKEN_LIFE_S: Final = 300
_ALPHABET: Final = string.ascii_letters + string.digits
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


def random_id(prefix: str, length: int = 27) -> str:
    """`prefix` and `length` random letters and digits, the form of QStash's own ids and keys."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(length))


@dataclass(slots=True)
class Keys:
    """The signing key in use and the one that follows it."""

    current: str = field(default_factory=lambda: random_id("sig_", 32))
    next: str = field(default_factory=lambda: random_id("sig_", 32))


def body_hash(body: bytes) -> str:
    """The `body` claim: base64url SHA-256 with its padding, as QStash writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode("ascii")


def sign(key: str, *, url: str, body: bytes, issued_at: float) -> str:
    """A token for one attempt, valid for 300 s from `issued_at` (unix seconds of the receiver's world)."""
    claims = {
        "iss": "Upstash",
        "sub": url,
        "exp": int(issued_at) + TOKEN_LIFE_S,
        "nbf": 0,
        "iat": int(issued_at),
        "jti": random_id("jwt_"),
        "body": body_hash(body),
    }
    signed = f"{_part(_HEADER)}.{_part(claims)}"
    digest = hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_b64(digest)}"


def _part(value: dict[str, object] | dict[str, str]) -> str:
    return _b64(json.dumps(value, separators=(",", ":")).encode())


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
