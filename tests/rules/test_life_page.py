"""docs/life-of-a-task.md against the code: the arrows of its states, the scripts and keys that move a task."""

from __future__ import annotations

import re
from typing import Final

from daemon.domain.states import TERMINAL, TRANSITIONS, State
from daemon.redis_client import keys
from tests.rules.tree import ROOT

PAGE: Final = (ROOT / "docs" / "life-of-a-task.md").read_text("utf-8")
SCRIPTS: Final = {path.stem for path in (ROOT / "daemon").glob("*/lua/*.lua")} - {"prelude"}
#: a task changes its place in each of these
MOVES: Final = set(
    "accept reserve expire_reservations cancel_reservation fetch begin ack snooze requeue dead_letter reclaim promote "
    "wake hasten restore".split()
)


def test_the_states_are_those_of_the_code() -> None:
    """Every allowed transition, with its cause, and no other."""
    diagram = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)[0]
    arrows = re.findall(r"^ +(\S+) --> (\w+|\[\*\])(?:: (.+))?$", diagram, re.MULTILINE)
    drawn = {(a, b) for a, b, _ in arrows}
    allowed = {(str(a), str(b)) for a, targets in TRANSITIONS.items() for b in targets}
    assert drawn == allowed | {("[*]", str(State.QUEUED))} | {(str(state), "[*]") for state in TERMINAL}
    assert len(arrows) == len(drawn) == len(diagram.splitlines())
    assert [(a, b) for a, b, cause in arrows if not cause and b != "[*]"] == []


def test_the_places_name_scripts_and_keys_that_there_are() -> None:
    table = PAGE.split("## Where it is")[1].split("\n## ")[0]
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", table)) - {"running"}
    assert named <= SCRIPTS and named >= MOVES, (named - SCRIPTS, MOVES - named)
    names = keys.queue_keys("Q")
    for key in (names.tasks, names.ready, names.retry, names.dead):
        assert f"`{key}`" in table, key
