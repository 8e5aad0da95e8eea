"""One finding of the doctor, and how times are measured."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from daemon.ports import Clock

Level = Literal["ok", "info", "warning", "error"]

ROUNDS: Final = 20  #: of a round-trip time
NEAR_MS: Final = 20.0  #: farther away, every token batch and every claim is felt
SKEW_WARN_S: Final = 2.0
SKEW_MAX_S: Final = 30.0  #: the leeway of signatures; leases are compared over hosts too


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found; `cure` is a step or a command, empty when nothing needs one."""

    check: str  #: `place.what`, stable: for programs
    level: Level
    text: str
    cure: str = ""


def ok(check: str, text: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", text)


def info(check: str, text: str, cure: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check, "info", text, cure)


def warning(check: str, text: str, cure: str) -> Finding:
    """Works today; will hurt one day."""
    return Finding(check, "warning", text, cure)


def error(check: str, text: str, cure: str) -> Finding:
    """Does not work, or loses work."""
    return Finding(check, "error", text, cure)


async def round_trips(clock: Clock, ask: Callable[[], Awaitable[Any]], rounds: int = ROUNDS) -> float:
    """The median of `rounds` calls in milliseconds, after one that is not counted."""
    await ask()
    taken = []
    for _ in range(rounds):
        began = clock.monotonic()
        await ask()
        taken.append(clock.monotonic() - began)
    return statistics.median(taken) * 1000


def distance(check: str, median_ms: float, rounds: int, what: str) -> Finding:
    """Near, or too far."""
    text = f"round trip {median_ms:.1f} ms (median of {rounds})"
    if median_ms <= NEAR_MS:
        return ok(check, text)
    return warning(check, text, f"put this host into the region of {what}: each task waits for several round trips")


def skew(check: str, theirs: float, before: float, after: float, whose: str) -> Finding:
    """How far a server's clock is from ours; half a round trip is forgiven."""
    off = theirs - (before + after) / 2
    text = f"{whose}'s clock is {off:+.2f} s from ours"
    cure = "switch time synchronisation on, on both hosts: timedatectl set-ntp true"
    if abs(off) - (after - before) / 2 <= SKEW_WARN_S:
        return ok(check, text)
    return (error if abs(off) > SKEW_MAX_S else warning)(check, text, cure)
