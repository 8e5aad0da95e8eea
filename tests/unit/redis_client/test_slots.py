"""Commands as redis-py spells them find their slot, and a slot its node."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions as rx
from redis.asyncio import Redis

from daemon.redis_client import keys
from daemon.redis_client.slots import SlotMap, first_key, keys_of, slot_of


class Told(Redis):
    """Keeps the words of a command instead of sending them."""

    def __init__(self) -> None:
        self.connection = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return args


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (lambda c: c.xreadgroup("g", "me", {"{q}:a": ">", "{q}:b": ">"}, count=1, block=5), ["{q}:a", "{q}:b"]),
        (lambda c: c.xread({"a": "0-0", "b": "$"}, count=1, block=100), ["a", "b"]),
        (lambda c: c.evalsha("0" * 40, 2, "k1", "k2", "an argument"), ["k1", "k2"]),
        (lambda c: c.evalsha("0" * 40, 0, "an argument"), []),
        (lambda c: c.mget(["a", "b"]), ["a", "b"]),
        (lambda c: c.xgroup_create("s", "g", id="0", mkstream=True), ["s"]),
        (lambda c: c.xpending_range("s", "g", min="-", max="+", count=1), ["s"]),
        (lambda c: c.zadd("z", {"m": 1}, xx=True), ["z"]),
        (lambda c: c.set("k", "v", nx=True, px=5), ["k"]),
        (lambda c: c.publish("channel", "k"), []),
        (lambda c: c.time(), []),
        (lambda c: c.info("memory"), []),
        (lambda c: c.config_get("maxmemory"), []),
    ],
)  # fmt: skip
async def test_a_command_names_its_keys(command: Any, found: list[str]) -> None:
    args = await command(Told())
    assert list(keys_of(args)) == found
    assert first_key(args) == (found[0] if found else None)


def test_what_is_meant_for_one_node_must_name_it() -> None:
    """Sent to any one, CLIENT LIST would look as if it had told of all."""
    with pytest.raises(rx.RedisError, match="CLIENT LIST concerns no key"):
        keys_of(("CLIENT LIST",))


def test_everything_that_one_script_changes_shares_a_slot() -> None:
    """Protocol 4: the bare counter beside its tagged company."""
    of_queue = {slot_of(key) for key in keys.queue_keys("q_paid_stream")}
    of_queue |= {
        slot_of(make("q_paid_stream", "t1")) for make in (keys.dedup, keys.reservation, keys.restored, keys.woken)
    }
    of_queue |= {slot_of(keys.blob("q_paid_stream", "t1", 0)), slot_of(keys.reconciling("q_paid_stream"))}
    assert of_queue == {slot_of("bp:queue:q_paid_stream")}
    assert slot_of(keys.events("t1")) == slot_of(keys.events_state("t1"))
    guards = {keys.model_permits("m", "paid"), keys.user_permits("u"), keys.queue_permits("q"), *keys.model_keys("m")}
    assert {
        slot_of(key) for key in guards | {keys.CONSUMERS, keys.NOTIFIED, keys.LIMITERS_WITH_WAITERS, keys.CANCELS}
    } == {slot_of("{guard}")}


def test_the_map_knows_holders_and_holes() -> None:
    """In any order of ranges; a node without a name is where it was asked."""
    table = [[8000, 16000, [b"10.0.0.2", 7001, b"id"], [b"10.0.0.9", 7009, b"id"]], [0, 7999, [b"", 7000, b"id"]]]
    found = SlotMap.of(table, ("asked", 6379))
    assert [found.holder(slot) for slot in (0, 7999, 8000, 16000)] == [("asked", 7000)] * 2 + [("10.0.0.2", 7001)] * 2
    assert found.holder(16001) is None and SlotMap().holder(0) is None
    assert found.addresses == [("asked", 7000), ("10.0.0.2", 7001)]
