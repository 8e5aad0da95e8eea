"""What a provider's list of models says."""

from __future__ import annotations

from datetime import date

import pytest

from daemon.admin.checkup.finding import Finding
from daemon.admin.checkup.provider_hosts import findings_of
from daemon.admin.checkup.verdict import Peer

OPENAI = b'{"data": [{"id": "gpt-5", "shutdown_date": "2026-12-11"}, {"id": "gpt-6-luna", "shutdown_date": null}]}'
GEMINI = b'{"models": [{"name": "models/gemini-flash"}]}'


def judged(raw: bytes, *names: str, median_ms: float = 50.0, today: date = date(2026, 11, 30)) -> list[Finding]:
    return findings_of(Peer("openai", "api.openai.com"), 200, raw, median_ms, names, today)


@pytest.mark.parametrize(
    ("raw", "name"), [(OPENAI, "gpt-6-luna"), (GEMINI, "gemini-flash"), (b"<html>", "x"), (b"[]", "x")]
)
def test_a_listed_model_is_fine_and_an_unreadable_list_is_no_reproach(raw: bytes, name: str) -> None:
    assert [f.level for f in judged(raw, name)] == ["ok"]


def test_a_model_that_is_not_listed_is_named() -> None:
    found = judged(OPENAI, "gpt-6-luna", "gtp-5")
    assert [f.level for f in found] == ["ok", "warning"]
    assert "'gtp-5'" in found[1].text


@pytest.mark.parametrize(
    ("today", "level", "said"),
    [
        (date(2026, 11, 30), "warning", "on 2026-12-11: in 11 days"),
        (date(2026, 12, 11), "error", "on 2026-12-11: today"),
        (date(2026, 12, 13), "error", "2 days ago"),
    ],
)
def test_a_model_with_a_last_day_is_named_with_it(today: date, level: str, said: str) -> None:
    _, found = judged(OPENAI, "gpt-5", "gpt-6-luna", today=today)
    assert (found.level, said in found.text, "models.md" in found.cure) == (level, True, True)


def test_a_far_provider_is_said() -> None:
    assert judged(OPENAI, "gpt-6-luna", median_ms=900.0)[0].level == "info"


def test_an_odd_status_is_a_fault_of_the_provider() -> None:
    assert [f.level for f in findings_of(Peer("openai", "h"), 204, b"", 50.0, [], date(2026, 1, 1))] == ["warning"]
