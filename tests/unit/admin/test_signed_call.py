"""Our own calls must pass our own door."""

from __future__ import annotations

import hashlib

from daemon.admin.signed_call import signature
from daemon.relay.signature import verify

URL, BODY, NOW = "https://worker.example.com/api/worker/check", b'{"v":1}', 1_700_000_000.0


def _judged(token: str, *, body: bytes = BODY, url: str = URL, now: float = NOW) -> str | None:
    return verify(token, hashlib.sha256(body).digest(), url, [b"sig_a"], now=now, leeway_s=30)


def test_a_signed_call_is_believed() -> None:
    """For its address, its body and its time; for nothing else."""
    token = signature("sig_a", URL, BODY, NOW)
    assert _judged(token) is None
    assert _judged(token, body=b"{}") == "body_hash"
    assert _judged(token, url=f"{URL}/x") == "wrong_url"
    assert _judged(token, now=NOW + 400) == "expired"
    assert _judged(signature("sig_b", URL, BODY, NOW)) == "wrong_key"
