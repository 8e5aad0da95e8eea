"""Blocked network, proxy, bad key, region, quota and name are told apart: each has another cure."""

from __future__ import annotations

import json
import ssl
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest

from daemon.admin.checkup.verdict import Peer, of_answer, of_exception

PEER = Peer("openai", "api.openai.com")
KEY = Mock(host="api.openai.com", port=443, ssl=True)


def answered(status: int, error: object, content_type: str = "application/json", peer: Peer = PEER) -> Any:
    raw = error if isinstance(error, bytes) else json.dumps({"error": error}).encode()
    return of_answer(status, content_type, raw, peer)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"message": "Incorrect API key provided: sk-ab***cd", "code": "invalid_api_key"}, "key"),
        (401, {"message": "Authentication Fails (no such user)", "type": "authentication_error"}, "key"),
        (400, {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT",
               "details": [{"reason": "API_KEY_INVALID"}]}, "key"),
        (403, {"code": 403, "message": "Unregistered callers", "status": "PERMISSION_DENIED"}, "key"),
        (403, {"code": "unsupported_country_region_territory", "message": "Country, region, or territory not supported",
               "type": "request_forbidden"}, "region"),
        (400, {"code": 400, "message": "User location is not supported for the API use.",
               "status": "FAILED_PRECONDITION"}, "region"),
        (402, {"message": "Insufficient Balance", "type": "unknown_error"}, "quota"),
        (429, {"code": "insufficient_quota", "type": "insufficient_quota", "message": "You exceeded"}, "quota"),
        (429, {"code": "rate_limit_exceeded", "message": "Rate limit reached"}, "rate_limit"),
        (404, {"code": "model_not_found", "message": "The model `x` does not exist"}, "model"),
        (400, {"message": "Model Not Exist", "type": "invalid_request_error"}, "model"),
        (400, {"message": "The supported API model names are a, b, but you passed c."}, "model"),
        (400, {"message": "bad", "type": "invalid_request_error"}, "request"),
        (500, {"message": "oops"}, "provider"),
        (503, {"message": "overloaded"}, "provider"),
        (200, {"code": 402, "message": "Insufficient Balance"}, "quota"),
        (200, "quota exceeded", "provider"),
    ],
)  # fmt: skip
def test_a_vendor_s_refusal_is_its_own(status: int, error: object, kind: str) -> None:
    found = answered(status, error)
    assert found.kind == kind
    assert "sk-ab" not in found.text + found.cure, "what a body quotes stays in it"


@pytest.mark.parametrize("status", [200, 403, 451, 502])
def test_a_web_page_is_somebody_on_the_way(status: int) -> None:
    """A firewall's 403 is no bad key."""
    page = b"<!DOCTYPE html><html><body>Access denied by policy</body></html>"
    assert answered(status, page, "text/html").kind == "network"
    assert answered(status, page, "application/octet-stream").kind == "network"
    assert answered(status, page, "text/html", Peer("openai", "h", proxy=True)).kind == "proxy"


@pytest.mark.parametrize("status", [520, 522, 524, 529])
def test_a_page_of_what_stands_before_the_provider_is_the_providers_fault(status: int) -> None:
    """Cloudflare answers for a provider that does not: no proxy of ours would help."""
    page = b"<!DOCTYPE html><title>api.openai.com | 524: A timeout occurred</title>"
    assert answered(status, page, "text/html").kind == "provider"


@pytest.mark.parametrize("raw", [b'{"data": []}', b'data: {"choices": []}\n\n', b": keep-alive\n\n", b"", b"[]"])
def test_an_answer_that_serves_is_no_verdict(raw: bytes) -> None:
    assert answered(200, raw) is None


def test_an_error_as_the_first_event_of_a_stream_is_read() -> None:
    found = answered(200, b'data: {"error": {"code": "insufficient_quota", "message": "x"}}\n\ndata: [DONE]\n\n')
    assert found.kind == "quota"


@pytest.mark.parametrize(
    ("error", "peer", "kind", "said"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "no")), PEER, "network", "can't be resolved"),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "no")), Peer("o", "h", proxy=True), "proxy", "resolved"),
        (aiohttp.ClientConnectorError(KEY, OSError(113, "No route to host")), PEER, "network", "No route to host"),
        (TimeoutError(), PEER, "network", "did not answer in time"),
        (aiohttp.ServerDisconnectedError(), PEER, "network", "broke"),
        (ConnectionResetError(), PEER, "network", "broke"),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(111, "Connection refused")), PEER, "proxy", "nobody answers"),
        (aiohttp.ClientHttpProxyError(Mock(), (), status=407), PEER, "proxy", "user or password"),
        (aiohttp.ClientHttpProxyError(Mock(), (), status=403), PEER, "proxy", "let api.openai.com through"),
        (aiohttp.ClientHttpProxyError(Mock(), (), status=502), PEER, "proxy", "does not reach"),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("x")), PEER, "tls", "trusts"),
    ],
)  # fmt: skip
def test_no_answer_says_where_it_ended(error: Exception, peer: Peer, kind: str, said: str) -> None:
    found = of_exception(error, peer)
    assert (found.kind, said in found.text, bool(found.cure)) == (kind, True, True)
