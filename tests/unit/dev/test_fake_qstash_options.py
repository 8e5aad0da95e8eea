"""What publishers may ask of the fake QStash, and how its tokens look."""

from __future__ import annotations

import time

import jwt
import pytest
from qstash import Receiver

from daemon.dev.fake_qstash.mischief import ALL, Mischief, TokenFault
from daemon.dev.fake_qstash.options import FlowLimit, Options, Refused, require_loopback
from daemon.dev.fake_qstash.signing import sign

KEY = "sig_" + "k" * 32


def test_a_token_has_every_documented_claim() -> None:
    """HS256, exp 300 s after iat, nbf 0, padded body hash, an id of its own."""
    token = sign(KEY, url="http://127.0.0.1/x", body=b"\xff", issued_at=1_800_000_000.9)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(token, KEY, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False})
    assert claims.pop("jti").startswith("jwt_")
    assert claims == {
        "iss": "Upstash",
        "sub": "http://127.0.0.1/x",
        "exp": 1_800_000_300,
        "nbf": 0,
        "iat": 1_800_000_000,
        "body": "qBAK5qoZQNC2Y7sxzUZhQuu9vVGHExuS2TgYmHgy64k=",
    }


def test_the_official_receiver_accepts_a_token() -> None:
    """By either key."""
    for key in (KEY, "sig_" + "n" * 32):
        token = sign(key, url="http://x/", body="é".encode(), issued_at=time.time() - 1)  # noqa: TID251 - the judge uses it
        Receiver(KEY, "sig_" + "n" * 32).verify(signature=token, body="é", url="http://x/")


def test_headers_become_options() -> None:
    """In any case of letters; each prefix goes where it belongs."""
    options = Options.parse(
        [
            ("content-type", "text/plain"),
            ("UPSTASH-METHOD", "put"),
            ("Upstash-Retries", "5"),
            ("Upstash-Retry-Delay", "1000"),
            ("Upstash-Delay", "1m"),
            ("Upstash-Timeout", "5s"),
            ("Upstash-Forward-X-A", "1"),
            ("Upstash-Forward-X-A", "2"),
            ("Upstash-Failure-Callback", "http://[::1]:1/f"),
            ("Upstash-Failure-Callback-Delay", "1s"),
            ("Upstash-Failure-Callback-Forward-B", "b"),
            ("Upstash-Flow-Control-Key", "k"),
            ("Upstash-Flow-Control-Value", "parallelism=5, rate=10, period=1m"),
            ("Upstash-Label", "l"),
            ("X-Other", "never passed on"),
            ("Upstash-Unknown", "ignored"),
        ]
    )
    assert (options.content_type, options.method, options.retries) == ("text/plain", "PUT", 5)
    assert (options.delay_s, options.timeout_s) == (60, 5)
    assert options.retry_delay is not None and options.retry_delay.text == "1000"
    assert options.forward == (("X-A", "1"), ("X-A", "2"))
    assert options.failure_callback == "http://[::1]:1/f"
    assert options.failure_callback_headers == (("Upstash-Delay", "1s"), ("Upstash-Forward-B", "b"))
    assert options.flow == FlowLimit("k", parallelism=5, rate=10, period_s=60)


@pytest.mark.parametrize(
    "header",
    [
        ("Upstash-Forward-X", "a\r\nb"),
        ("Upstash-Forward-é", "a"),
        ("Upstash-Not-Before", "soon"),
        ("Upstash-Delay", "400d"),
        ("Upstash-Timeout", "0s"),
        ("Upstash-Retries", "1001"),
        ("Upstash-Fake-Mischief", "fun"),
        ("Upstash-Failure-Callback", "not a url"),
        ("Upstash-Callback", "http://127.0.0.1/"),
        ("Upstash-Cron", "* * * * *"),
    ],
)
def test_a_senseless_header_is_refused_by_name(header: tuple[str, str]) -> None:
    """400, and the publisher learns which."""
    with pytest.raises(Refused) as refusal:
        Options.parse([header])
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "value", ["", "period=1m", "parallelism=0", "rate=x", "rate=1, period=8d", "speed=9", "rate=1, period=x"]
)
def test_a_senseless_flow_control_is_refused(value: str) -> None:
    """It needs parallelism or rate; a period is at most a week."""
    with pytest.raises(Refused, match="Flow-Control"):
        Options.parse([("Upstash-Flow-Control-Key", "k"), ("Upstash-Flow-Control-Value", value)])


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:8080/x", True),
        ("http://127.1.2.3/", True),
        ("https://localhost/x", True),
        ("http://relay.localhost/", True),
        ("http://[::1]/", True),
        ("http://0.0.0.0/", False),
        ("http://192.168.0.1/", False),
        ("http://localhost.example.com/", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://user@example.com:80/", False),
        ("http://127.0.0.1:99999/", False),
        ("http://[::1/", False),
        ("file:///etc/passwd", False),
        ("http:///x", False),
    ],
)
def test_only_loopback_is_called(url: str, allowed: bool) -> None:  # noqa: FBT001 - a table of answers
    """By address or by a name that can mean nothing else."""
    if allowed:
        assert require_loopback(url) == url
    else:
        with pytest.raises(Refused):
            require_loopback(url)


def test_mischief_is_a_list_of_faults() -> None:
    """With counts, times and defaults; the empty list is none."""
    assert Mischief.parse("") == Mischief()
    assert Mischief.parse(" twice, together=3 ,late, out-of-order") == Mischief(
        twice=1, together=3, late_s=10, out_of_order=True
    )
    assert Mischief.parse("expired=2, lost-reply=all, hang-up=1s") == Mischief(
        token=TokenFault.EXPIRED, token_attempts=2, lost_reply=ALL, hang_up_s=1
    )


@pytest.mark.parametrize("text", ["fun", "twice=x", "late=x", "expired, unsigned"])
def test_unknown_mischief_is_refused(text: str) -> None:
    """With a reason."""
    with pytest.raises(ValueError, match=r"mischief|count|duration|token"):
        Mischief.parse(text)
