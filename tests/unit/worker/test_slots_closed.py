"""Slots of a paused queue."""

from __future__ import annotations

import asyncio

from daemon.worker.slots import Slots


async def test_closed_slots_are_not_free_however_many_are_unused() -> None:
    """What runs goes on and gives its slot back; nothing new is taken."""
    slots = Slots(3)
    slots.take()
    slots.close()
    assert (slots.free, slots.used, slots.closed) == (0, 1, True)
    slots.give()
    slots.resize(5)
    assert slots.free == 0
    slots.open()
    assert (slots.free, slots.closed) == (5, False)


async def test_opening_wakes_who_waits_for_a_change() -> None:
    """A paused reader sleeps until it is resumed."""
    slots = Slots(1)
    slots.close()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = group.create_task(slots.changed())
        await asyncio.sleep(0)
        slots.open()
        await waiting
    assert slots.free == 1
