"""What a provider's list of models says."""

from __future__ import annotations

import pytest

from daemon.admin.checkup.provider_hosts import judge

OPENAI = b'{"data": [{"id": "gpt-5"}, {"id": "gpt-5-mini"}]}'
GEMINI = b'{"models": [{"name": "models/gemini-flash"}]}'


@pytest.mark.parametrize(("raw", "name"), [(OPENAI, "gpt-5"), (GEMINI, "gemini-flash"), (b"<html>", "x"), (b"[]", "x")])
def test_a_listed_model_is_fine_and_an_unreadable_list_is_no_reproach(raw: bytes, name: str) -> None:
    assert [f.level for f in judge("p", 200, raw, 50.0, [name])] == ["ok"]


def test_a_model_that_is_not_listed_is_named() -> None:
    found = judge("openai", 200, OPENAI, 50.0, ["gpt-5", "gtp-5"])
    assert [f.level for f in found] == ["ok", "warning"]
    assert "'gtp-5'" in found[1].text


@pytest.mark.parametrize(("status", "level"), [(401, "error"), (403, "error"), (503, "warning")])
def test_a_refused_key_is_an_error_and_an_outage_is_not(status: int, level: str) -> None:
    assert [f.level for f in judge("openai", status, b"", 50.0, [])] == [level]


def test_a_far_provider_is_said() -> None:
    assert judge("openai", 200, OPENAI, 900.0, [])[0].level == "info"
