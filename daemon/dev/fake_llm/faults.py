"""Which fault a call gets: planned by a control call, or named by its model. Pure bookkeeping."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

#: what the names do, beside any status 400 to 599 (`500`, `429-after-2` with `Retry-After: 2`)
KINDS: Final = MappingProxyType(
    {
        "ok": "no fault (for plans)",
        "quota": "429 of the kind that waiting does not cure: insufficient_quota, or a limit per day",
        "echo-secret": "400 whose body quotes the key and the prompt in every field",
        "reset": "hangs up before a byte of the answer",
        "garbage": "200 with an HTML page",
        "stall-first": "accepts, then nothing",
        "keepalive-forever": "keep-alives and nothing else",
        "slow-drip": "one token every `drip_s`",
        "stall-mid": "half of the answer, then nothing",
        "cut": "half of the answer, then the connection breaks",
        "no-finish": "half of the answer, then a clean end without finish reason",
        "bad-json": "half of the answer, then a chunk that is not JSON",
        "error-mid": "half of the answer, then an error object",
        "blocked": "refused as a success: content filter, blocked prompt",
        "blocked-mid": "half of the answer, then the content filter",
        "length": "half of the answer, then the token limit",
        "overloaded": "finish_reason insufficient_system_resource, or an UNAVAILABLE error object",
        "empty": "finishes without a word",
    }
)
_NAME: Final = re.compile(r"(?P<kind>[a-z0-9-]+?)(?:-after-(?P<after>\d+(?:\.\d+)?))?(?P<once>-once)?")
_IN_MODEL: Final = re.compile(r"(?:^|[-_./])fault-(?P<name>[a-z0-9.-]+)$")


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail. `status` is set for plain HTTP refusals, `after_s` goes out as `Retry-After`."""

    kind: str
    after_s: float | None = None
    once: bool = False

    @property
    def status(self) -> int | None:
        """The HTTP status of a plain refusal."""
        return int(self.kind) if self.kind.isdigit() else None

    @classmethod
    def parse(cls, name: str) -> Fault:
        """From `kind[-after-seconds][-once]`. Raises `ValueError` with the allowed names."""
        match = _NAME.fullmatch(name)
        kind = match["kind"] if match else ""
        if match is None or not (kind in KINDS or (kind.isdigit() and 400 <= int(kind) <= 599)):
            raise ValueError(f"fault {name!r} is not known; allowed: 400 to 599, {', '.join(KINDS)}")
        return cls(kind, float(match["after"]) if match["after"] else None, bool(match["once"]))


class Faults:
    """Plans and memories of one fake."""

    def __init__(self) -> None:
        self._planned: dict[str, deque[Fault]] = {}
        self._seen: set[tuple[str, str]] = set()

    def plan(self, names: list[str], model: str = "*") -> int:
        """Queue one fault for each of the next calls of `model` (`*`: of any); how many are waiting now comes back."""
        waiting = self._planned.setdefault(model, deque())
        waiting.extend([Fault.parse(name) for name in names])
        return len(waiting)

    def take(self, model: str, conversation: str) -> Fault | None:
        """The fault of one call: planned for its model, planned for any, or named by the model itself."""
        for key in (model, "*"):
            if waiting := self._planned.get(key):
                return self._unless_ok(waiting.popleft(), model, conversation)
        named = _IN_MODEL.search(model)
        return self._unless_ok(Fault.parse(named["name"]), model, conversation) if named else None

    def clear(self) -> None:
        """Forget plans and what failed once."""
        self._planned.clear()
        self._seen.clear()

    def _unless_ok(self, fault: Fault, model: str, conversation: str) -> Fault | None:
        if fault.kind == "ok":
            return None
        if fault.once:
            seen = (model, conversation)
            if seen in self._seen:
                return None
            self._seen.add(seen)
        return fault
