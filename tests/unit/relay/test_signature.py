"""Our verifier beside the official Python Receiver, on one table of tokens. The JavaScript one is in `integration`."""

from __future__ import annotations

import hashlib
import time
import warnings

import pytest
from qstash import Receiver

from daemon.domain.clock import SystemClock
from daemon.relay.signature import Flaw, verify
from tests.unit.relay.tokens import BODY, CURRENT, LEEWAY_S, NEXT, URL, Token, claims, table, token

NOW = 1_790_000_000.0
KEYS = (CURRENT.encode(), NEXT.encode())


def ours(
    text: str | None, *, body: bytes = BODY, url: str = URL, now: float = NOW, keys: tuple[bytes, ...] = KEYS
) -> Flaw | None:
    return verify(text, hashlib.sha256(body).digest(), url, keys, now=now, leeway_s=LEEWAY_S)


@pytest.mark.parametrize("case", table(NOW), ids=lambda case: case.name)
def test_each_token_of_the_table_is_judged_as_it_says(case: Token) -> None:
    """The reason is exact, so that an operator sees at once what is wrong."""
    assert ours(case.text, body=case.body) == case.flaw


@pytest.mark.parametrize("name", [case.name for case in table(NOW) if case.is_text])
def test_the_official_python_receiver_agrees_where_it_is_right(name: str) -> None:
    """Where it is known to be wrong the table says so. Bodies that are not text it cannot judge at all."""
    [case] = [case for case in table(SystemClock().time()) if case.name == name]  # it knows no clock but the system's
    receiver = Receiver(CURRENT, NEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyJWT finds the keys of these tests short
        try:
            receiver.verify(signature=case.text, body=case.body.decode(), url=URL, clock_tolerance=LEEWAY_S)
        except Exception:  # noqa: BLE001 - a token without `body` is a KeyError there
            accepted = False
        else:
            accepted = True
    assert accepted == case.accepted_by(case.python)


@pytest.mark.parametrize("case", table(NOW), ids=lambda case: case.name)
def test_a_stranger_is_known_before_the_body_is_read(case: Token) -> None:
    """Without the body's digest all else is judged."""
    flaw = verify(case.text, None, URL, KEYS, now=NOW, leeway_s=LEEWAY_S)
    assert flaw == (None if case.flaw == "body_hash" else case.flaw)


@pytest.mark.parametrize("text", [None, ""])
def test_a_call_without_a_signature_is_told_apart(text: str | None) -> None:
    assert ours(text) == "missing"


def test_all_keys_of_both_lists_are_tried() -> None:
    """Regions have keys of their own; any of them may have signed."""
    many = (b"a", b"b", b"c", CURRENT.encode())
    assert ours(token(claims(NOW)), keys=many) is None
    assert ours(token(claims(NOW), key="b"), keys=many) is None
    assert ours(token(claims(NOW), key="d"), keys=many) == "wrong_key"


def test_no_key_at_all_believes_nobody() -> None:
    assert ours(token(claims(NOW), key=""), keys=()) == "wrong_key"
    assert ours(token(claims(NOW), key=""), keys=(b"",)) == "wrong_key"


def test_the_leeway_ends_where_it_says() -> None:
    """An end is the first instant that is too late."""
    text = token(claims(NOW, exp=int(NOW), nbf=int(NOW)))
    assert ours(text, now=NOW + LEEWAY_S - 0.01) is None
    assert ours(text, now=NOW + LEEWAY_S) == "expired"
    assert ours(text, now=NOW - LEEWAY_S) is None
    assert ours(text, now=NOW - LEEWAY_S - 0.01) == "not_yet"


def test_a_second_spelling_of_a_signature_is_refused() -> None:
    """The last character holds bits that base64 ignores: what was signed once has one spelling."""
    good = token(claims(NOW))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = good[:-1] + alphabet[alphabet.index(good[-1]) ^ 1]
    assert ours(good) is None
    assert ours(twin) == "wrong_key"
    assert ours(good + "=") == "wrong_key"


def test_a_judgement_costs_microseconds() -> None:
    """A guard against a slow path, not a benchmark: 15 µs on an idle core."""
    text, digest = token(claims(NOW), key=NEXT), hashlib.sha256(BODY).digest()
    best = min(_seconds(text, digest) for _ in range(5))
    assert best < 0.0005


def _seconds(text: str, digest: bytes) -> float:
    began = time.perf_counter()
    for _ in range(100):
        verify(text, digest, URL, KEYS, now=NOW, leeway_s=LEEWAY_S)
    return (time.perf_counter() - began) / 100
