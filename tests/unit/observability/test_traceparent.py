"""The header of W3C Trace Context: what counts, and what is ignored as the standard says."""

from __future__ import annotations

import pytest

from daemon.observability.traceparent import parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_header_names_trace_and_span() -> None:
    found = parse(f"00-{TRACE}-{SPAN}-01")
    assert found == (TRACE, SPAN, True, f"00-{TRACE}-{SPAN}-01")
    assert parse(f" 00-{TRACE}-{SPAN}-00 ") == (TRACE, SPAN, False, f"00-{TRACE}-{SPAN}-00")


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    """What it adds is not passed on, unknown flags neither."""
    assert parse(f"cc-{TRACE}-{SPAN}-ff-what-else") == (TRACE, SPAN, True, f"00-{TRACE}-{SPAN}-01")


@pytest.mark.parametrize(
    "header",
    [
        None, "", "nonsense", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-01-more", f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1", f"cc-{TRACE}-{SPAN}-01-{'x' * 600}",
    ],
)  # fmt: skip
def test_anything_else_is_no_header(header: str | None) -> None:
    assert parse(header) is None
