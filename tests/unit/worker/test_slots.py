"""Free slots decide how much is read."""

from __future__ import annotations

import asyncio

from daemon.worker.slots import Slots
from tests.virtual_time import in_virtual_time


def test_what_is_taken_is_not_free() -> None:
    """Total, used and free always add up."""
    slots = Slots(3)
    slots.take()
    slots.take(2)
    assert (slots.total, slots.used, slots.free) == (3, 3, 0)
    slots.give()
    assert slots.free == 1


def test_fewer_slots_than_what_runs_frees_none() -> None:
    """What runs goes on, and nothing is read until it has come down."""
    slots = Slots(5)
    slots.take(4)
    slots.resize(2)
    assert (slots.total, slots.used, slots.free) == (2, 4, 0)
    slots.give(3)
    assert slots.free == 1
    slots.resize(10)
    assert slots.free == 9


def test_a_closed_count_has_nothing_free_until_it_opens() -> None:
    """A paused queue reads nothing; what runs goes on."""
    slots = Slots(3)
    slots.take()
    slots.close()
    slots.close()
    assert (slots.used, slots.free) == (1, 0)
    slots.open()
    assert slots.free == 2


@in_virtual_time
async def test_every_change_wakes_a_waiter_once() -> None:
    """Given back, resized, opened, or told to look again; an old change does not count."""
    slots = Slots(1)
    loop = asyncio.get_running_loop()
    slots.give(0)
    for change in (lambda: slots.give(0), lambda: slots.resize(2), slots.open, slots.wake):
        loop.call_later(5, change)
        began = loop.time()
        await slots.changed()
        assert round(loop.time() - began, 6) == 5
