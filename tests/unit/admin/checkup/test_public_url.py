"""What an answer at our public address means."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest

from daemon.admin.checkup.public_url import finding_of, plain, unreachable, unsigned

GOOD = {"accepted": True, "answer": 200}


def test_the_relay_s_own_answer_is_good() -> None:
    """Also when the message itself would be refused: the way is what was tried."""
    assert finding_of(200, GOOD, 0.01).level == "ok"
    assert finding_of(200, {"accepted": False, "answer": 429}, 0.01).level == "ok"
    assert finding_of(200, GOOD, 2.0).level == "warning"


@pytest.mark.parametrize(
    ("status", "said", "cure"),
    [
        (401, {"code": "BAD_SIGNATURE"}, "SIGNING_KEY"),
        (404, None, "unchanged"),
        (301, None, "redirect"),
        (413, None, "1 MiB"),
        (502, None, "is it running"),
        (503, {}, "Redis"),
        (504, None, "in time"),
        (200, {"hello": "world"}, "something else"),
        (418, None, "something else"),
    ],
)
def test_each_other_answer_has_its_cure(status: int, said: Any, cure: str) -> None:
    found = finding_of(status, said, 0.01)
    assert found.level == "error"
    assert cure in found.cure


def test_strangers_must_be_sent_away() -> None:
    """Taken in development only, and then it is said."""
    assert [f.level for f in unsigned(401, skip=False)] == ["ok"]
    assert [f.level for f in unsigned(200, skip=True)] == ["info"]
    assert [f.level for f in unsigned(200, skip=False)] == ["error"]


@pytest.mark.parametrize(
    ("base", "levels"),
    [
        ("https://worker.example.com", []),
        ("http://worker.example.com", ["warning"]),
        ("http://127.0.0.1:8080", ["info"]),
        ("https://10.0.0.4", ["info"]),
        ("http://relay.internal", ["info"]),
    ],
)
def test_an_address_is_judged_by_itself(base: str, levels: list[str]) -> None:
    assert [f.level for f in plain(base)] == levels


@pytest.mark.parametrize(
    ("failure", "cure"),
    [
        (aiohttp.ClientConnectorDNSError(Mock(), OSError(1, "x")), "DNS record"),
        (aiohttp.ClientConnectorCertificateError(Mock(), ValueError()), "certificate"),
        (TimeoutError(), "firewall"),
        (ConnectionRefusedError(), "start the relay"),
    ],
)
def test_each_silence_has_its_cure(failure: BaseException, cure: str) -> None:
    found = unreachable(failure, "https://worker.example.com")
    assert found.level == "error"
    assert cure in found.cure
