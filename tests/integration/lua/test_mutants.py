"""The machines are checked: a script with one rule broken turns them red; else a green run proves nothing.

One mutant in `make test`, all in `make mutate`.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import NamedTuple

import pytest
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine

from daemon.config import RedisSettings
from daemon.redis_client.scripts import Script, load_script
from tests import lua_scripts
from tests.integration.lua import machines
from tests.integration.lua.events_machine import EventsMachine
from tests.integration.lua.permits_machine import GuardsMachine
from tests.integration.lua.queue_machine import QueueMachine

pytestmark = pytest.mark.timeout(600)

#: modules that load scripts
USERS = (
    "queues.admission", "queues.dead_letters", "queues.drift", "queues.streams", "events.cancel_notices", "events.log",
    "limiter.permits",
)  # fmt: skip
RUNS = 300  #: of up to fifty steps; most mutants die in the first three


class Mutant(NamedTuple):
    """A script and the text in it that is replaced."""

    script: str
    old: str
    new: str
    machine: type[RuleBasedStateMachine] = QueueMachine


OWNER = "if not entry or entry[2] ~= ARGV[3] then"
MUTANTS = {
    "renewal without owner check": Mutant("beat", "if entry and entry[2] == ARGV[2] then", "if entry then"),
    "ack without owner check": Mutant("ack", OWNER, "if not entry then"),
    "start without owner check": Mutant("begin", OWNER, "if not entry then"),
    "parking without owner check": Mutant("park", OWNER, "if not entry then"),
    "hand-back without owner check": Mutant("hand_back", OWNER, "if not entry then"),
    "dead letter without owner check": Mutant("dead_letter", OWNER, "if not entry then"),
    "count-based trim": Mutant("accept", "KEYS[1], '*', 'task'", "KEYS[1], 'MAXLEN', '2', '*', 'task'"),
    "accepted as often as delivered": Mutant("accept", "if seen then", "if false then"),
    "full is not refused": Mutant("accept", "if taken >= limit then", "if taken > limit then"),
    "place given back at every start": Mutant(
        "begin", "if redis.call('ZREM', KEYS[2], ARGV[4]) == 0 then", "if redis.call('ZREM', KEYS[2], ARGV[4]) > 1 then"
    ),
    "place given back at every refund": Mutant("refund", "redis.call('ZREM', KEYS[2], ARGV[1]) == 1 and ", ""),
    "ack without delete": Mutant("ack", "redis.call('XDEL', KEYS[1], ARGV[2])", ""),
    "parked and still pending": Mutant("park", "redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])", ""),
    "parked without its message": Mutant("park", "redis.call('HSET', KEYS[3], ARGV[4], ARGV[6])", ""),
    "promoted and still delayed": Mutant("promote", "redis.call('ZREM', KEYS[1], id)", ""),
    "handed back empty": Mutant("hand_back", "if content then", "if false then"),
    "reclaim of what lives": Mutant("sweep", "ARGV[2], ARGV[3], cursor", "ARGV[2], 0, cursor"),
    "two sweepers at once": Mutant("sweep", "if holder and holder ~= ARGV[2] then return false end", ""),
    "restored twice": Mutant("restore", " or redis.call('EXISTS', KEYS[3]) == 1", ""),
    "a consumer is buried with its entries": Mutant("bury", "> 0 then return 0 end", "> 9 then return 0 end"),
    "ghosts are left": Mutant("ghosts", "'COUNT', ARGV[2])", "'COUNT', 1)"),
    "accepted work expires like a promise": Mutant("expire", "redis.call('EXISTS', ARGV[2] .. id) == 0 and ", ""),
    "a surplus is taken at once": Mutant("reconcile", "if now - since >= tonumber(ARGV[1]) then", "if true then"),
    "a paused queue is read": Mutant("fetch", "paused ~= 'no' then return", "paused == 'no' then return"),
    "withdrawn although it runs": Mutant("withdraw", "(pending.err or #pending == 0)", "true"),
    "fence off": Mutant("append", "if attempt < seen then", "if false then", EventsMachine),
    "no nonce": Mutant("append", "if state[3] == ARGV[1] or state[4] == ARGV[1] then", "if false then", EventsMachine),
    "one nonce for all": Mutant("append", "attempt, nonce = seen, 'side'", "attempt = seen", EventsMachine),
    "a rest without a look": Mutant("append", "if last and last ~= seq then", "if false then", EventsMachine),
    "words after the end": Mutant("append", "if state[5] then", "if false then", EventsMachine),
    "replayed twice": Mutant("begin_again", "== 0 then return 0 end", "== 9 then return 0 end", EventsMachine),
    "replay forgets the fence": Mutant(
        "begin_again", "'ended', 'cancel'", "'attempt', 'ended', 'cancel'", EventsMachine
    ),
    "guard as counter": Mutant(
        "guard_release",
        "redis.call('ZREM', KEYS[2 * i], member)",
        "#redis.call('ZPOPMIN', KEYS[2 * i]) / 2",
        GuardsMachine,
    ),
    "the dead keep their places": Mutant(
        "places", "redis.call('ZCOUNT', guard, '(' .. now, '+inf')", "redis.call('ZCARD', guard)", GuardsMachine
    ),
    "one too many": Mutant(
        "guard_enter", "local free = guard.limit -", "local free = guard.limit + 1 -", GuardsMachine
    ),
    "some places instead of all": Mutant(
        "guard_enter", "for i = 1, shared do taken[#taken + 1] = guards[i] end", "", GuardsMachine
    ),
    "a zombie renews its place": Mutant(
        "guard_renew", "if score and tonumber(score) > now then", "if score then", GuardsMachine
    ),
}
SAMPLE = "parked and still pending"


def break_script(monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    """Whoever loads the script gets it with one rule broken."""
    assert mutant.old in lua_scripts.script(mutant.script).source, "the script has changed: so must its mutant"

    def loaded(room: str, name: str, *before: str) -> Script:
        script = load_script(room, name, *before)
        if mutant.script not in (name, *before):
            return script
        source = script.source.replace(mutant.old, mutant.new)
        return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    for module in USERS:
        monkeypatch.setattr(import_module(f"daemon.{module}"), "load_script", loaded)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == SAMPLE else pytest.mark.long) for name in MUTANTS]
)
def test_a_broken_rule_is_seen(redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The model and the server disagree after some step."""
    break_script(monkeypatch, MUTANTS[name])
    with pytest.raises((AssertionError, Flaky)):
        machines.run(MUTANTS[name].machine, redis_settings, RUNS)
