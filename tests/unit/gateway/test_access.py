"""Who calls: keys, tokens and where they may stand; addresses behind the proxy."""

from __future__ import annotations

import hashlib
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from daemon.config.types import SecretStr
from daemon.domain.clock import SystemClock
from daemon.gateway.access import FAILURES_BURST, Access, ApiKeys, address_of
from daemon.gateway.responses import Refused
from daemon.gateway.tokens import Tokens, UploadTicket

KEY = "key-of-sixteen-characters"
HASHED = "sha256:" + hashlib.sha256(b"the-second-key").hexdigest()
TOKENS = Tokens(SecretStr("a secret of thirty-two characters"), SystemClock(), 86_400)
KEYS = ApiKeys([SecretStr(f"bff:{KEY}"), SecretStr(f"cron:{HASHED}")])
TOKEN = TOKENS.task_token("t1")


def access(*origins: str) -> Access:
    return Access(KEYS, TOKENS, origins, SystemClock())


def request(path: str = "/api/tasks/t1/events", peer: Any = ("203.0.113.9", 1), **headers: str) -> web.Request:
    transport = Mock()
    transport.get_extra_info = lambda name, default=None: peer if name == "peername" else default
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("GET", path, headers={"Host": "gw.example.com", **sent}, transport=transport)


def status_of(call: Any, *args: Any) -> int:
    with pytest.raises(Refused) as refused:
        call(*args)
    return refused.value.status


def test_keys_are_known_by_name_plain_or_hashed() -> None:
    assert KEYS.name_of(KEY) == "bff"
    assert KEYS.name_of("the-second-key") == "cron"
    assert [KEYS.name_of(k) for k in ("", "bff", f"bff:{KEY}", KEY + "x", HASHED, "\udcff")] == [None] * 6


def test_no_key_is_held_as_such() -> None:
    assert KEY not in repr(vars(KEYS))


def test_a_server_calls_with_its_key() -> None:
    assert access().caller(request(Authorization=f"Bearer {KEY}")) == "bff"
    assert access().caller(request(X_API_Key="the-second-key")) == "cron"
    for headers in (
        {},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {TOKEN}"},
    ):
        assert status_of(access().caller, request(**headers)) == 401


def test_a_key_in_the_address_is_not_looked_at() -> None:
    assert status_of(access().caller, request(f"/api/tasks?token={KEY}")) == 401


def test_a_token_counts_wherever_it_is_sent() -> None:
    access().viewer(request(Authorization=f"Bearer {TOKEN}"), "t1")
    access().viewer(request(f"/api/tasks/t1/events?token={TOKEN}"), "t1")
    access().viewer(request(Cookie=f"task_token={TOKEN}"), "t1")


def test_a_foreign_and_a_missing_task_look_the_same() -> None:
    assert status_of(access().viewer, request(Authorization=f"Bearer {TOKEN}"), "t2") == 404
    assert status_of(access().viewer, request(), "t1") == 401
    assert status_of(access().viewer, request(Authorization=f"Bearer {TOKEN}x"), "t1") == 401


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "https://app.example.com"}, True),
        ({"Origin": "https://gw.example.com"}, True),
        ({"Origin": "https://evil.example.com"}, False),
        ({"Origin": "null"}, False),
        ({"Sec_Fetch_Site": "same-origin"}, True),
        ({"Sec_Fetch_Site": "cross-site"}, False),
    ],
)
def test_a_cookie_counts_from_our_pages_only(headers: dict[str, str], *, allowed: bool) -> None:
    """A browser sends it along with any page's call; a token in header or address shows intent."""
    ours = access("https://app.example.com")
    call = request(Cookie=f"task_token={TOKEN}", **headers)
    if allowed:
        ours.viewer(call, "t1")
    else:
        assert status_of(ours.viewer, call, "t1") == 401
    ours.viewer(request(Authorization=f"Bearer {TOKEN}", **headers), "t1")


def test_either_is_told_apart() -> None:
    assert access().caller_or_viewer(request(Authorization=f"Bearer {KEY}"), "any") == "bff"
    assert access().caller_or_viewer(request(Authorization=f"Bearer {TOKEN}"), "t1") is None
    assert status_of(access().caller_or_viewer, request(Authorization=f"Bearer {TOKEN}"), "t2") == 404


def test_an_uploader_has_a_ticket() -> None:
    ticket = TOKENS.upload_ticket("u1", 10)
    assert access().uploader(request(Authorization=f"Bearer {ticket}")) == UploadTicket("u1", 10)
    assert status_of(access().uploader, request(Authorization=f"Bearer {TOKEN}")) == 401


def test_guessing_is_slowed_down_by_address() -> None:
    """Only failures count, and only against the address that failed."""
    judge = access()
    for _ in range(FAILURES_BURST):
        assert status_of(judge.caller, request()) == 401
    assert status_of(judge.caller, request()) == 429
    assert status_of(judge.caller, request(peer=("203.0.113.8", 1))) == 401
    assert judge.caller(request(Authorization=f"Bearer {KEY}")) == "bff"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (("203.0.113.9", 1), "198.51.100.1", "203.0.113.9"),  # not our proxy: anybody may claim anything
        (("127.0.0.1", 1), "198.51.100.1", "198.51.100.1"),
        (("127.0.0.1", 1), "10.0.0.1, 198.51.100.1", "198.51.100.1"),  # the last is what our proxy saw
        (("::1", 1, 0, 0), "2001:db8::1", "2001:db8::1"),
        (("127.0.0.1", 1), "", "127.0.0.1"),
        (("127.0.0.1", 1), "nonsense", "127.0.0.1"),
        ("", "198.51.100.1", "198.51.100.1"),
    ],
)
def test_the_address_behind_the_proxy(peer: Any, forwarded: str, address: str) -> None:
    assert address_of(request(peer=peer, **({"X_Forwarded_For": forwarded} if forwarded else {}))) == address
