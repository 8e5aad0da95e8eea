"""One line of a trial: what was tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from daemon.admin.checkup.finding import Finding
from daemon.admin.checkup.verdict import Verdict

State = Literal["works", "works, but", "fails", "skipped"]

#: kinds that say that a server was not reached: trying again, or another way, may help
UNREACHED: Final = frozenset({"network", "proxy", "tls"})
_STATES: Final[dict[str, State]] = {"ok": "works", "info": "works", "warning": "works, but", "error": "fails"}


@dataclass(frozen=True, slots=True)
class Result:
    """`kind`: in one word what is wrong, for programs (`checkup.verdict`, or `rights`, `schema`, `answer`, …)."""

    part: str  #: model, redis, postgres, relay, qstash
    what: str
    state: State
    text: str
    cure: str = ""
    kind: str = ""
    cost_usd: float | None = None  #: of a model call; None: unknown, or none was made


def works(part: str, what: str, text: str) -> Result:
    """As it should be."""
    return Result(part, what, "works", text)


def flawed(part: str, what: str, text: str, cure: str, kind: str) -> Result:
    """It works, and somebody should know."""
    return Result(part, what, "works, but", text, cure, kind)


def fails(part: str, what: str, text: str, cure: str, kind: str) -> Result:
    """It does not work."""
    return Result(part, what, "fails", text, cure, kind)


def skipped(part: str, what: str, text: str, cure: str = "") -> Result:
    """It was not tried."""
    return Result(part, what, "skipped", text, cure)


def of_verdict(part: str, what: str, found: Verdict) -> Result:
    """What stands in between."""
    return fails(part, what, found.text, found.cure, found.kind)


def of_finding(part: str, what: str, found: Finding) -> Result:
    """A finding of the doctor as a line of the trial."""
    kind = "" if found.level in ("ok", "info") else found.check
    return Result(part, what, _STATES[found.level], found.text, found.cure, kind)
