"""Which tokens open what."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from daemon.config.types import SecretStr
from daemon.gateway.tokens import BadToken, Tokens, UploadTicket

SECRET = "a secret of thirty-two characters"
NOW = 1_800_000_000.0


class Clock:
    """Stands still."""

    def time(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 0.0


TOKENS = Tokens(SecretStr(SECRET), Clock(), ttl_s=60)


def made(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token as somebody else may make it; a claim that is None is left out."""
    all_claims = {"sub": "t1", "exp": NOW + 60, **claims}
    return jwt.encode({k: v for k, v in all_claims.items() if v is not None}, secret, algorithm=algorithm)


def test_a_task_token_opens_its_task() -> None:
    assert TOKENS.task_of(TOKENS.task_token("t1")) == "t1"
    claims = jwt.decode(TOKENS.task_token("t1"), SECRET, algorithms=["HS256"], options={"verify_iat": False})
    assert claims == {"sub": "t1", "scope": "task", "iat": NOW, "exp": NOW + 60}


def test_next_js_may_make_it_without_a_scope() -> None:
    """`sub` and `exp` are all that is needed; a clock may be half a minute off."""
    assert TOKENS.task_of(made()) == "t1"
    assert TOKENS.task_of(made(exp=NOW - 29, iat=NOW + 3600)) == "t1"
    assert TOKENS.task_of(made(nbf=NOW + 29)) == "t1"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "eyJ" + "x" * 5000,
        "ü" * 50,
        made(exp=None),
        made(exp=NOW - 31),
        made(nbf=NOW + 31),
        made(sub=None),
        made(sub="../t1"),
        made(sub="t1\n"),
        made(scope="upload"),
        made(scope="admin"),
        made(scope=["task"]),
        made(secret="another secret of enough characters"),
        made(secret=SECRET * 2, algorithm="HS512"),
        made(secret=SECRET * 2, algorithm="HS384"),
        jwt.encode({"sub": "t1", "exp": NOW + 60}, None, algorithm="none"),  # type: ignore[arg-type]  # as attackers do
        made()[:-2],
        made() + "x",
    ],
)
def test_everything_else_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        TOKENS.task_of(token)


@pytest.mark.parametrize("claims", [{"exp": "soon"}, {"exp": True}, {"nbf": "x"}, {"sub": 7}, {"sub": {"a": 1}}])
def test_claims_of_a_wrong_type_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        TOKENS.task_of(made(**claims))


def test_an_upload_ticket_names_its_user_and_limit() -> None:
    assert TOKENS.upload_of(TOKENS.upload_ticket("u1", 1000)) == UploadTicket("u1", 1000)
    assert TOKENS.upload_of(made(sub="u/1", scope="upload")) == UploadTicket("u/1", None)


@pytest.mark.parametrize(
    "claims",
    [{"scope": "task"}, {"scope": None}, {"sub": ""}, {"sub": "u" * 129}, {"sub": "u\x00"}, {"maxBytes": 0},
     {"maxBytes": -1}, {"maxBytes": "9"}, {"maxBytes": True}, {"maxBytes": 1.5}],
)  # fmt: skip
def test_no_other_token_is_an_upload_ticket(claims: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        TOKENS.upload_of(made(**{"scope": "upload", **claims}))
