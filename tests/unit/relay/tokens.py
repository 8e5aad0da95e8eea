"""Good and bad tokens, one table for our verifier and both official ones.

`python` and `javascript` are set where an official Receiver is known to say something else; why stands below.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from daemon.relay.signature import Flaw

CURRENT: Final = "sig_current_of_the_tests"
NEXT: Final = "sig_next_of_the_tests"
URL: Final = "https://relay.example.com/api/worker/stream/resume-review"
BODY: Final = '{"taskId":"t1","text":"简历 résumé"}'.encode()
LEEWAY_S: Final = 30


@dataclass(frozen=True, slots=True)
class Token:
    """One case. `flaw`: what we say; `python`, `javascript`: whether that Receiver accepts it (None: as we do)."""

    name: str
    text: str
    flaw: Flaw | None
    body: bytes = BODY
    python: bool | None = None
    javascript: bool | None = None

    def accepted_by(self, oracle: Literal[True, False] | None) -> bool:
        """What that Receiver is expected to say."""
        return self.flaw is None if oracle is None else oracle

    @property
    def is_text(self) -> bool:
        """Whether an official Receiver can be asked at all: both take text only."""
        return b"\xff" not in self.body


def b64(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(value: object) -> str:
    """One JSON part of a token."""
    return b64(json.dumps(value, separators=(",", ":")).encode())


def claims(now: float, **changes: Any) -> dict[str, Any]:
    """The claims of a good token; a change to None takes that claim out."""
    good: dict[str, Any] = {
        "iss": "Upstash", "sub": URL, "exp": int(now) + 300, "nbf": 0, "iat": int(now), "jti": "jwt_1",
        "body": base64.urlsafe_b64encode(hashlib.sha256(BODY).digest()).decode(),
    }  # fmt: skip
    return {name: value for name, value in (good | changes).items() if value is not None}


def token(payload: object, *, key: str = CURRENT, head: object = None, payload_text: str | None = None) -> str:
    """A token with that payload, signed by `key`."""
    signed = f"{part(head or {'alg': 'HS256', 'typ': 'JWT'})}.{payload_text or part(payload)}"
    return f"{signed}.{b64(hmac.digest(key.encode(), signed.encode(), 'sha256'))}"


def table(now: float) -> list[Token]:
    """Every case, made for this instant."""
    return [*_claimed(now), *_forged(now)]


def _claimed(now: float) -> list[Token]:
    """Well made and signed by one of ours: what they claim decides."""
    good = token(claims(now))
    binary = b"\xff\x00\xfe"

    def case(name: str, flaw: Flaw | None, /, **changes: Any) -> Token:
        return Token(name, token(claims(now, **changes)), flaw)

    # The Python Receiver judges `iat` and has no leeway (its clock_tolerance does nothing); the JavaScript one takes a
    # token without `exp` or `nbf`, and Node passes over characters that are not base64.
    return [
        Token("good", good, None),
        Token("signed by the next key", token(claims(now), key=NEXT), None),
        case("body hash without padding", None, body=b64(hashlib.sha256(BODY).digest())),
        replace(case("iat in the future", None, iat=int(now) + 120), python=False),
        case("with an audience that is empty", None, aud=""),
        case("with a claim that we don't know", None, other={"a": [1]}),
        Token("another typ", token(claims(now), head={"alg": "HS256", "typ": "at+jwt"}), None),
        Token("no typ", token(claims(now), head={"alg": "HS256"}), None),
        Token("typ of a number", token(claims(now), head={"alg": "HS256", "typ": 7}), None),
        replace(case("expired within the leeway", None, exp=int(now) - 10), python=False),
        replace(case("valid soon, within the leeway", None, nbf=int(now) + 10), python=False),
        Token("a body that is not text", token(claims(now, body=b64(hashlib.sha256(binary).digest()))), None, binary),
        case("expired", "expired", exp=int(now) - 40),
        case("not valid yet", "not_yet", nbf=int(now) + 60),
        case("for another path", "wrong_url", sub=URL + "s"),
        case("for another host", "wrong_url", sub=URL.replace("relay", "other")),
        case("for http", "wrong_url", sub=URL.replace("https", "http")),
        case("for the path with a query", "wrong_url", sub=URL + "?a=1"),
        case("for the path with a slash", "wrong_url", sub=URL + "/"),
        case("of another issuer", "wrong_issuer", iss="upstash"),
        case("without an issuer", "malformed", iss=None),
        case("without a subject", "malformed", sub=None),
        replace(case("without an end", "malformed", exp=None), javascript=True),
        replace(case("without a beginning", "malformed", nbf=None), javascript=True),
        case("without a body hash", "malformed", body=None),
        replace(case("an end that is text", "malformed", exp=str(int(now) + 300)), python=True),
        case("an end that is true", "malformed", exp=True),
        case("a subject that is a list", "malformed", sub=[URL]),
        Token("another body", good, "body_hash", BODY + b" "),
        Token("an empty body", good, "body_hash", b""),
    ]  # fmt: skip


def _forged(now: float) -> list[Token]:
    """Not well made, or not signed by one of ours."""
    good = token(claims(now))
    signed, _, signature = good.rpartition(".")
    head, _, payload = signed.partition(".")
    critical = {"alg": "HS256", "crit": ["x"], "x": 1}
    foreign = f"{token(claims(now, jti='2')).rpartition('.')[0]}.{signature}"
    changed = f"{head}.{part(claims(now, exp=int(now) + 900))}.{signature}"
    rs256 = {"alg": "RS256", "typ": "JWT"}
    unsigned = f"{part({'alg': 'none', 'typ': 'JWT'})}.{payload}."
    return [
        Token("signed by a foreign key", token(claims(now), key="sig_foreign"), "wrong_key"),
        Token("signed by no key", token(claims(now), key=""), "wrong_key"),
        Token("not signed", unsigned, "malformed"),
        Token("alg none with the signature kept", unsigned + signature, "malformed"),
        Token("declared as RS256", token(claims(now), head=rs256), "malformed"),
        Token("declared as hs256", token(claims(now), head={"alg": "hs256"}), "malformed"),
        Token("without an algorithm", token(claims(now), head={"typ": "JWT"}), "malformed"),
        Token("with an extension that must be understood", token(claims(now), head=critical), "malformed"),
        Token("signature cut", good[:-1], "wrong_key"),
        Token("signature of another token", foreign, "wrong_key"),
        Token("claims changed after signing", changed, "wrong_key"),
        Token("two parts", signed, "wrong_key"),
        Token("four parts", f"{good}.{signature}", "wrong_key"),
        Token("nothing but dots", "..", "malformed"),
        Token("garbage", "not a token", "malformed"),
        Token("not ASCII", f"{good}é", "malformed", javascript=True),
        Token("claims that are no object", token([1]), "malformed"),
        Token("claims that are no JSON", token(None, payload_text=b64(b"{")), "malformed"),
        Token("claims that are no base64", token(None, payload_text="!!!!"), "malformed"),
        Token("claims that are no UTF-8", token(None, payload_text=b64(b'{"iss":"\xff"}')), "malformed"),
        Token("claims nested deeply", token(None, payload_text=b64(b'{"a":' + b"[" * 5000)), "malformed"),
        Token("head that is no object", token(claims(now), head=[1]), "malformed"),
    ]  # fmt: skip
