"""What the fake QStash may do wrong on purpose: all that at-least-once delivery allows, and an attacker's tries.

Written as a list, `twice, lost-reply=2, late=10s`; chosen for all messages (constructor), for the next few
(`FakeQstash.misbehave`) or for one (header `Upstash-Fake-Mischief`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from daemon.dev.fake_qstash.delays import duration_s

ALL: Final = 1_000_000  # "on every attempt"
COPIES_MAX: Final = 100


class TokenFault(StrEnum):
    """One way in which a signature can be unusual. All but `next-key` must be refused by a receiver."""

    NEXT_KEY = "next-key"
    FOREIGN_KEY = "foreign-key"
    EXPIRED = "expired"
    WRONG_BODY = "wrong-body"
    WRONG_URL = "wrong-url"
    UNSIGNED = "unsigned"


@dataclass(frozen=True, slots=True)
class Mischief:
    """Faults of one message. Counts of attempts start with the first attempt; `all` means every one."""

    twice: int = 0  #: times it is delivered again after a 2xx, with the same id
    together: int = 0  #: copies sent at the same moment as the first attempt
    late_s: float = 0.0  #: delivered that much later than promised
    out_of_order: bool = False  #: waits until a message published after it has ended
    token: TokenFault | None = None
    token_attempts: int = 0  #: attempts whose token has the fault
    lost_reply: int = 0  #: attempts whose answer gets lost after the receiver gave it
    hang_up_s: float | None = None  #: the first attempt's connection is cut after that many real seconds

    @classmethod
    def parse(cls, text: str) -> Mischief:
        """The faults in a comma-separated list. Raises ValueError with the names there are."""
        chosen: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = item.partition("=")
            match name:
                case "twice" | "together":
                    chosen[name] = min(_count(value), COPIES_MAX)
                case "late":
                    chosen["late_s"] = duration_s(value or "10s")
                case "out-of-order":
                    chosen["out_of_order"] = True
                case "lost-reply":
                    chosen["lost_reply"] = _count(value)
                case "hang-up":
                    chosen["hang_up_s"] = duration_s(value or "50ms")
                case _ if name in list(TokenFault):
                    if "token" in chosen:
                        raise ValueError("one token fault a message")
                    chosen["token"], chosen["token_attempts"] = TokenFault(name), _count(value)
                case _:
                    raise ValueError(f"no such mischief: {name!r}; there are {', '.join(NAMES)}")
        return cls(**chosen)


NAMES: Final = ("twice", "together", "late", "out-of-order", "lost-reply", "hang-up", *TokenFault)
NONE: Final = Mischief()


def _count(text: str) -> int:
    if text == "all":
        return ALL
    if text and not text.isdecimal():
        raise ValueError(f"a count or 'all', not {text!r}")
    return int(text or 1)
