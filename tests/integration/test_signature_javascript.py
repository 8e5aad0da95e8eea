"""The official JavaScript Receiver on the tokens that our verifier is held to. Skipped where node is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.domain.clock import SystemClock
from tests.integration.js.toolchain import node_modules, run_script
from tests.unit.relay.tokens import CURRENT, LEEWAY_S, NEXT, URL, table


@pytest.fixture
def modules(pytestconfig: pytest.Config) -> Path:
    return node_modules(pytestconfig.rootpath / ".pytest_cache" / "node")


async def test_the_official_javascript_receiver_agrees_where_it_is_right(modules: Path) -> None:
    """Every token of the table; where that Receiver is known to be wrong the table says so."""
    cases = [case for case in table(SystemClock().time()) if case.is_text]
    tokens = [
        {"signature": case.text, "body": case.body.decode(), "url": URL, "clockTolerance": LEEWAY_S} for case in cases
    ]
    keys = {"QSTASH_CURRENT_SIGNING_KEY": CURRENT, "QSTASH_NEXT_SIGNING_KEY": NEXT}
    verdicts = json.loads(await run_script(modules, "judge_signatures.cjs", keys | {"TOKENS": json.dumps(tokens)}))
    told = {case.name: reason for case, reason in zip(cases, verdicts, strict=True)}
    differing = {c.name: told[c.name] for c in cases if (told[c.name] is None) != c.accepted_by(c.javascript)}
    assert differing == {}
