"""The machines are checked: a script with one rule broken turns them red; else a green run proves nothing.

One mutant in `make test`, all in `make mutate`.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine

from daemon.config import RedisSettings
from daemon.limiter.scripts import SCRIPTS as LIMITER
from daemon.redis_client.scripts import script_of
from tests import lua_scripts
from tests.integration.lua import machines
from tests.integration.lua.events_machine import EventsMachine
from tests.integration.lua.permits_machine import GuardsMachine
from tests.integration.lua.queue_machine import QueueMachine

pytestmark = pytest.mark.timeout(600)

RUNS = 300  #: of up to fifty steps; most mutants die in the first three


class Mutant(NamedTuple):
    """A script and the text in it that is replaced."""

    script: str
    old: str
    new: str
    machine: type[RuleBasedStateMachine] = QueueMachine


EVERY = "every script of permits"
SLOT = "if redis.call('ZREM', waiting, task_id) == 0 then return 0, 0 end", "redis.call('ZREM', waiting, task_id)"
OWNER = "return entry and entry[2] == consumer", "return entry"
MUTANTS = {
    "renewal without owner check": Mutant("renew_leases", "elseif entry[2] == consumer or", "elseif entry or"),
    "vanished told as taken": Mutant("renew_leases", "vanished[#vanished + 1]", "taken[#taken + 1]"),
    "ack without owner check": Mutant("ack", *OWNER),
    "start without owner check": Mutant("begin", *OWNER),
    "snoozing without owner check": Mutant("snooze", *OWNER),
    "requeueing without owner check": Mutant("requeue", *OWNER),
    "dead letter without owner check": Mutant("dead_letter", *OWNER),
    "count-based trim": Mutant("accept", "tasks, '*', 'task'", "tasks, 'MAXLEN', '2', '*', 'task'"),
    "accepted as often as delivered": Mutant("accept", "if earlier then return earlier end", ""),
    "full is not refused": Mutant("accept", "if taken >= limit then", "if taken > limit then"),
    "slot released at every start": Mutant("begin", *SLOT),
    "slot released at every cancelled reservation": Mutant("cancel_reservation", *SLOT),
    "counter below zero": Mutant("ack", "redis.call('INCR', counter)", ""),
    "ack without delete": Mutant("ack", "redis.call('XDEL', stream, entry_id)", ""),
    "snoozed and still pending": Mutant("snooze", "redis.call('XACK', stream, group, entry_id)", ""),
    "snoozed without its message": Mutant("snooze", "redis.call('HSET', held, task_id, entry)", ""),
    "promoted and still delayed": Mutant("promote", "redis.call('ZREM', retry, task_id)", ""),
    "requeued empty": Mutant("requeue", "if entry then redis", "if false then redis"),
    "reclaim of what lives": Mutant("reclaim", "consumer, lease_ms, cursor", "consumer, 0, cursor"),
    "two reclaim at once": Mutant("reclaim", "if holder and holder ~= consumer then", "if false then"),
    "taken over from the living": Mutant("take_over", "'-', '+', left, owner", "'-', '+', left"),
    "more taken over than fits": Mutant("take_over", "left = left - 1", ""),
    "restored twice": Mutant("restore", " or redis.call('EXISTS', mark) == 1", ""),
    "a consumer is deleted with its entries": Mutant("delete_consumer", "consumer) > 0 then", "consumer) > 9 then"),
    "stranded entries are left": Mutant("rescue_stranded", "'COUNT', count)", "'COUNT', 1)"),
    "accepted work expires like a reservation": Mutant(
        "expire_reservations", "if redis.call('EXISTS', seen_prefix .. task_id) == 0 then", "if true then"
    ),
    "a surplus is taken at once": Mutant(
        "reconcile", "if now - since >= tonumber(reservation_ttl_ms) then", "if true then"
    ),
    "a paused queue is read": Mutant("fetch", "if is_paused(control) then return", "if false then return"),
    "withdrawn although it runs": Mutant("withdraw", "(pending.err or #pending == 0)", "true"),
    "fence off": Mutant("append", "if attempt < seen then", "if false then", EventsMachine),
    "a number starts twice": Mutant("append", "events[1].type == 'started' then", "false then", EventsMachine),
    "another owner's words": Mutant("append", "if attempt == seen and others then", "if false then", EventsMachine),
    "bystanders take over": Mutant("append", "seen, 'side', ''", "seen, 'side', owner", EventsMachine),
    "a former owner's words": Mutant(
        "append", "if attempt == seen and owner == '' then owner", "if owner == '' then owner", EventsMachine
    ),
    "no nonce": Mutant("append", "if op == nonce or side == nonce then", "if false then", EventsMachine),
    "one nonce for all": Mutant(
        "append", "attempt, nonce_field, owner = seen, 'side', ''", "attempt, owner = seen, ''", EventsMachine
    ),
    "a rest without a look": Mutant(
        "append", "if only_after and only_after ~= seq then", "if false then", EventsMachine
    ),
    "words after the end": Mutant("append", "if has_ended then", "if false then", EventsMachine),
    "replayed twice": Mutant("begin_again", "== 0 then return 0 end", "== 9 then return 0 end", EventsMachine),
    "replay forgets the fence": Mutant(
        "begin_again", "'ended', 'cancel'", "'attempt', 'ended', 'cancel'", EventsMachine
    ),
    "limiter as counter": Mutant(
        "release_permits",
        "redis.call('ZREM', limiter.permits, token)",
        "#redis.call('ZPOPMIN', limiter.permits) / 2",
        GuardsMachine,
    ),
    "the dead keep their permits": Mutant(
        EVERY, "redis.call('ZCOUNT', permits, '(' .. now, '+inf')", "redis.call('ZCARD', permits)", GuardsMachine
    ),
    "the proved dead keep their permits": Mutant(
        "reassign_permits", "if is_dead[nonce] then", "if false then", GuardsMachine
    ),
    "the living lose their permits": Mutant(
        "reassign_permits", "if is_dead[nonce] then", "if nonce then", GuardsMachine
    ),
    "one too many": Mutant(
        "acquire_permits", "local free = limiter.limit -", "local free = limiter.limit + 1 -", GuardsMachine
    ),
    "some permits instead of all": Mutant(
        "acquire_permits",
        "for _, limiter in ipairs(shared) do taken[#taken + 1] = limiter end",
        "",
        GuardsMachine,
    ),
    "a beat takes permits again": Mutant("renew_permits", "retake == '1'", "true", GuardsMachine),
    "vanished permits stay lost": Mutant("renew_permits", "retake == '1'", "false", GuardsMachine),
    "a zombie renews its permit": Mutant(
        "renew_permits", "return lease_end and tonumber(lease_end) > now", "return lease_end", GuardsMachine
    ),
}
SAMPLE = "snoozed and still pending"


def break_script(monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    """Whoever calls the script gets it with one rule broken."""
    scripts = LIMITER if mutant.script == EVERY else lua_scripts.table(mutant.script)
    names = [name for name in scripts if mutant.script in (name, EVERY) and mutant.old in scripts[name].source]
    assert names, "the script has changed: so must its mutant"
    for name in names:
        monkeypatch.setitem(scripts, name, script_of(name, scripts[name].source.replace(mutant.old, mutant.new)))


def test_what_each_mutant_replaces_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most mutants run in `make mutate` only; a change of their script is told so in `make test`."""
    for mutant in MUTANTS.values():
        with monkeypatch.context() as broken:
            break_script(broken, mutant)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == SAMPLE else pytest.mark.long) for name in MUTANTS]
)
def test_a_broken_rule_is_seen(redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The model and the server disagree after some step."""
    break_script(monkeypatch, MUTANTS[name])
    with pytest.raises((AssertionError, Flaky)):
        machines.run(MUTANTS[name].machine, redis_settings, RUNS)
