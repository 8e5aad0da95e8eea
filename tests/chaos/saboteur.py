"""A daemon or relay with one rule broken, to see whether the checker notices: `python -m tests.chaos.saboteur RULE …`.

Breaking one rule often shows nothing, since another one holds: where a second line of defence would hide the break, it
is taken away as well, and the same course with only that one gone stays green.

Rules are broken in a process of their own, never in a test's; each break is a few lines over the real thing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from daemon.cli import main
from daemon.redis_client.scripts import script_of
from tests import lua_scripts


def ack_before_write() -> None:
    """The entry is settled when the model begins, not when its result is durable."""
    executor: Any = importlib.import_module("daemon.pipeline.executor")
    ask = executor.ask_model

    async def early(request: Any, provider: Any, scope: Any, *rest: Any) -> Any:
        for hold in _holds:
            if hold.scope is scope:
                await _tails[0].ack(hold.delivery)
                hold.settled_entry()  # as in a daemon that acks first: no lease is left to renew
        return await ask(request, provider, scope, *rest)

    _watch()
    executor.ask_model = early


def clock_stands_still() -> None:
    """A host was suspended and its clock did not notice: nobody fences himself. No rule is broken yet."""
    leases: Any = importlib.import_module("daemon.worker.lease").Leases
    leases._fence_overdue = lambda _: None


def beat_without_owner_check() -> None:
    """A bare XCLAIM, by which a zombie takes its entry back."""
    clock_stands_still()
    source = _source("renew_leases")
    owned = "elseif entry[2] == consumer or entry[2] == heir then"
    assert owned in source
    _replace("renew_leases", source.replace(owned, "elseif entry then"))


def append_without_fence() -> None:
    """Events of lower attempts are let in."""
    clock_stands_still()
    source = _source("append").replace("if attempt < seen then return {0, seen, seq, cancel} end", "")
    _replace("append", source)


def finish_without_fence() -> None:
    """Any attempt may write the result. What would stop a zombie before it gets there is broken as well."""
    beat_without_owner_check()
    append_without_fence()
    ledger: Any = importlib.import_module("daemon.store.no_attempt")
    queries = dict(ledger.load_queries())
    for name, owner in (("finish", "i.owner"), ("heartbeat", "$3::text")):
        fence = f"t.attempt = i.attempt AND t.owner = {owner}"
        assert fence in queries[name], "the query has changed: so must what breaks it"
        queries[name] = queries[name].replace(fence, f"t.attempt >= i.attempt AND {owner} IS NOT NULL")
    ledger.load_queries = lambda: queries


def no_nonce() -> None:
    """A repeated append is appended again."""
    source = _source("append").replace("if op == nonce or side == nonce then", "if false then")
    _replace("append", source)


def trim_by_count() -> None:
    """The relay keeps the work stream short, as one keeps a log short."""
    source = _source("accept").replace("tasks, '*', 'task'", "tasks, 'MAXLEN', '5', '*', 'task'")
    _replace("accept", source)


def dead_keep_permits() -> None:
    """Whoever proves a process dead leaves its permits alone: they end with their lease. No rule is broken yet."""
    source = _source("reassign_permits").replace("if #dead > 0 then free(limiter.permits) end", "")
    _replace("reassign_permits", source)


def guard_as_counter() -> None:
    """Places are counted up and down and belong to nobody, so those of a dead process stay taken."""
    dead_keep_permits()
    limiter: Any = importlib.import_module("daemon.limiter.permits").RedisLimiter
    enter = limiter.acquire

    async def for_ever(self: Any, ask: Any, _lease_ms: int) -> Any:
        return await enter(self, ask, 86_400_000)

    async def nothing_to_renew(_self: Any, _held: Any, _lease_ms: int) -> set[str]:
        return set()

    limiter.acquire, limiter.renew = for_ever, nothing_to_renew


RULES = {
    f.__name__: f
    for f in (
        ack_before_write,
        append_without_fence,
        beat_without_owner_check,
        clock_stands_still,
        dead_keep_permits,
        finish_without_fence,
        guard_as_counter,
        no_nonce,
        trim_by_count,
    )
}
_holds: list[Any] = []
_tails: list[Any] = []


def _watch() -> None:
    from daemon.pipeline.in_flight import InFlight
    from daemon.queues.settlement import RedisSettlement

    for kind, seen in ((InFlight, _holds), (RedisSettlement, _tails)):
        init = kind.__init__

        def noted(self: Any, *args: Any, _init: Any = init, _seen: list[Any] = seen, **kwargs: Any) -> None:
            _init(self, *args, **kwargs)
            _seen.append(self)

        kind.__init__ = noted  # type: ignore[method-assign]


def _source(name: str) -> str:
    return lua_scripts.script(name).source


def _replace(name: str, source: str) -> None:
    assert source != _source(name), "the script has changed: so must what breaks it"
    lua_scripts.table(name)[name] = script_of(name, source)


def break_rule(arguments: Sequence[str]) -> None:
    """Break the rule that is named first, then be the daemon (or, with `relay`, the relay) with the other arguments."""
    RULES[arguments[0]]()
    sys.argv = ["daemon", *arguments[1:]]
    main()


if __name__ == "__main__":
    break_rule(sys.argv[1:])
