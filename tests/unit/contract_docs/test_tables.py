"""The tables leave nothing out."""

from __future__ import annotations

import inspect
from types import FunctionType

import pytest

from daemon.contract_docs import schemas, tables
from daemon.domain.errors import Code
from daemon.domain.states import TRANSITIONS, State
from daemon.redis_client import keys


def test_a_bar_in_a_cell_does_not_split_it() -> None:
    """Patterns and unions may hold bars."""
    assert tables.table(("a", "b"), [("x|y", 1)]).splitlines()[2] == r"| x\|y | 1 |"


def test_every_registered_key_is_in_the_table() -> None:
    """A key that `keys` can make has a line with its content."""
    text = tables.redis_keys()
    makers = [f for f in vars(keys).values() if isinstance(f, FunctionType) and f.__module__ == keys.__name__]
    constants = [name for name in vars(keys) if name.isupper() and name != "GROUP"]
    assert len(text.splitlines()) == 2 + len(keys.QueueKeys._fields) + len(makers) + len(constants)
    assert inspect.getdoc(keys.dedup) is not None
    assert "| `{bp:queue:Q}:seen:taskId` | string `entryId:sha256`" in text
    assert "| `qstreamd:environment` | string" in text


def test_every_error_code_is_in_the_table() -> None:
    """With both texts for users."""
    lines = tables.error_codes().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [str(code) for code in Code]
    assert all(line.count("|") == 7 for line in lines)


def test_the_diagram_has_exactly_the_allowed_transitions() -> None:
    """Each arrow is one entry of the table in the code."""
    arrows = {
        tuple(line.split(" --> "))
        for line in tables.state_diagram().replace(" ", "").replace("-->", " --> ").split("\n")[1:]
    }
    allowed = {(str(a), str(b)) for a, targets in TRANSITIONS.items() for b in targets}
    assert {(a, b) for a, b in arrows if "[*]" not in (a, b)} == allowed
    assert {b for a, b in arrows if a == "[*]"} == {str(State.QUEUED)}


@pytest.mark.parametrize("name", ["NODE_ENV", "REDIS_URL", "DATABASE_URL", "QSTASH_NEXT_SIGNING_KEY", "QUEUE_MAX_SIZE"])
def test_public_variables_are_listed_and_tunables_are_not(name: str) -> None:
    """The contract stays short; `QSTREAMD_…` has its own page."""
    text = tables.public_environment()
    assert f"| `{name}` |" in text
    assert "QSTREAMD_" not in text
    assert "JOURNAL_STREAM" not in text


def test_limits_are_told_in_words() -> None:
    """A reader of the page needs no schema to know what fits."""
    text = tables.body_fields(schemas.worker_body())
    assert "| `userId` | text, 1 to 128 | yes |" in text
    assert "| `maxAttempts` | whole number, 1 to 10 |  |" in text
    assert "| `refs` | object of text, at most 16 |  |" in text
