"""Calls as QStash signs them (protocol 7), for those of us who knock at our own door: `doctor` and `loadtest`."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

import msgspec

LIFE_S: Final = 300


def signature(key: str, url: str, body: bytes, now: float) -> str:
    """The value of `Upstash-Signature` for one call of `url`, valid for five minutes from `now` (unix seconds)."""
    claims = {
        "iss": "Upstash", "sub": url, "iat": int(now), "nbf": int(now) - 1, "exp": int(now) + LIFE_S,
        "body": _text(hashlib.sha256(body).digest()),
    }  # fmt: skip
    signed = f"{_json({'alg': 'HS256', 'typ': 'JWT'})}.{_json(claims)}"
    return f"{signed}.{_text(hmac.digest(key.encode(), signed.encode(), 'sha256'))}"


def _json(value: Mapping[str, object]) -> str:
    return _text(msgspec.json.encode(value))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
