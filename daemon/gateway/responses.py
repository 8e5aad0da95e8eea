"""What the gateway answers: JSON bodies, and refusals that are raised where they are found.

A refusal names a code and a sentence; never a secret, a prompt or a server's own words.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from daemon.domain.errors import CODES, Code, DependencyAway, QstreamdError, RedisFull, Rejected, TaskError

AWAY_RETRY_S: Final = 5
_encode: Final = msgspec.json.Encoder().encode


class Refused(QstreamdError):
    """A call that is answered with an error. `retry_after_s` also becomes `Retry-After`."""

    def __init__(
        self, status: int, code: str, message: str = "", *, retry_after_s: float | None = None, why: str = ""
    ) -> None:
        super().__init__(f"{status} {code}" + (f" ({why})" if why else ""))
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


def not_found() -> Refused:
    """The one answer for what is not there and for what is somebody else's."""
    return Refused(404, "NOT_FOUND", "no such task")


def busy(message: str, retry_after_s: float = AWAY_RETRY_S) -> Refused:
    """Try again soon."""
    return Refused(503, Code.WORKER_OVERLOADED, message, retry_after_s=retry_after_s)


def json_answer(status: int, body: Mapping[str, Any]) -> web.Response:
    """A JSON body."""
    return web.Response(status=status, body=_encode(body), content_type="application/json")


def refusal(refused: Refused) -> web.Response:
    """The answer to a refused call; seconds to wait are jittered upwards, so that callers do not come back together."""
    body: dict[str, Any] = {"code": refused.code, "message": refused.message}
    headers = {}
    if refused.retry_after_s is not None:
        body["retryAfter"] = max(1, round(refused.retry_after_s * random.uniform(1, 1.3)))
        headers["Retry-After"] = str(body["retryAfter"])
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(status=refused.status, body=_encode(body), content_type="application/json", headers=headers)


def as_refused(problem: Exception) -> Refused:
    """The refusal for whatever a handler raised."""
    match problem:
        case Refused():
            return problem
        case web.RequestPayloadError():  # a body that is not what Content-Encoding says
            return Refused(400, "BAD_REQUEST", "the body can't be read", why=type(problem).__name__)
        case web.HTTPException():
            code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "TOO_LARGE"}.get(problem.status, "BAD_REQUEST")
            return Refused(problem.status, code, problem.reason)
        case Rejected():
            return Refused(400, problem.code, problem.message)
        case TaskError(code=Code.WORKER_OVERLOADED) | DependencyAway() | RedisFull() | TimeoutError():
            return Refused(
                503,
                Code.WORKER_OVERLOADED,
                CODES[Code.WORKER_OVERLOADED].en,
                retry_after_s=AWAY_RETRY_S,
                why=type(problem).__name__,
            )
        case _:
            return Refused(500, Code.INTERNAL, CODES[Code.INTERNAL].en)
