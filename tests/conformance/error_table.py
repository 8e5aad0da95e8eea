"""`docs/provider-errors.md`, generated from what the suite of odd answers asserts.

python -m tests.conformance.error_table > docs/provider-errors.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from daemon.domain.errors import CODES, Code, Disposition
from tests.conformance.vendor_server import Case, read_cases

HEAD: Final = """# What a provider's errors lead to

Generated from what `tests/conformance/test_vendor_answers.py` asserts
(`python -m tests.conformance.error_table > docs/provider-errors.md`); do not edit.
Each line is an answer in `tests/conformance/vendor_cases`, sent to the real adapter over HTTP.

- **The model is closed** for all processes: the task waits or a fallback is asked, no failure is counted
  ([flow control](guides/flow-control.md)). Once text of the answer has come, the same error is a failed attempt, since
  the text is paid for.
- **Tried again**: a failed attempt; after `attempts` of them a dead letter. What is known of its cost is recorded.
- **Ends**: the same request would be refused again.
- No body of a provider is quoted in events, logs or letters, only its status and the words that are known to
  `daemon/providers/error_mapping.py`.

| the provider answers | code | what follows | asked again after |
| --- | --- | --- | --- |
"""
CLOSED: Final[Mapping[str, str]] = {
    "QUOTA": "the model is closed (`QUOTA`) until the key or the account is mended",
    "RATE_LIMITED": "the model is closed (`RATE_LIMITED`)",
    "OVERLOADED": "the model is closed (`OVERLOADED`)",
    "UNKNOWN_MODEL": "the next model is asked; without one tried again",
}
ENDINGS: Final[Mapping[Disposition, str]] = {
    Disposition.RETRY: "tried again", Disposition.REJECT: "ends", Disposition.DEFER: "waits",
    Disposition.BUG: "tried again",
}  # fmt: skip


def page() -> str:
    """The whole page."""
    failing = [case for folder in ("own", "reported") for case in read_cases(folder) if case.expected["end"] != "done"]
    return HEAD + "".join(sorted(f"| {' | '.join(_cells(case))} |\n" for case in failing))


def _cells(case: Case) -> Iterator[str]:
    wanted: dict[str, Any] = case.expected
    yield wanted["says"]
    yield f"`{wanted['code']}`"
    if "reason" in wanted:
        yield CLOSED[wanted["reason"]]
    elif wanted.get("cut"):
        yield "the next attempt asks the next model; without one it ends"
    else:
        yield ENDINGS[CODES[Code(wanted["code"])].disposition]
    yield f"{wanted['retryAfterS']} s, as it says" if "retryAfterS" in wanted else ""


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
