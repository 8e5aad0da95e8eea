"""The clock of the fake QStash, and the gates that wait by it."""

from __future__ import annotations

import asyncio

import pytest

from daemon.dev.fake_qstash.clock import Clock
from daemon.dev.fake_qstash.gate import Gate


async def turn() -> None:
    """Let callbacks run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_still_clock_moves_only_when_told() -> None:
    """Timers fire at their time, earliest first, and never before."""
    clock = Clock(0, start=1000.0)
    fired: list[int] = []
    for when in (1020, 1010):
        clock.timer(when).add_done_callback(lambda _, when=when: fired.append(when))  # type: ignore[misc]
    clock.advance_to(1009.9)
    await turn()
    assert (clock.now(), fired, clock.next_due()) == (1009.9, [], 1010)
    clock.advance_to(1030)
    await turn()
    assert (clock.now(), fired, clock.next_due()) == (1030, [1010, 1020], None)


async def test_time_never_goes_back() -> None:
    """Advancing to the past changes nothing; a timer in the past is done at once."""
    clock = Clock(0, start=1000.0)
    clock.advance_to(900)
    assert clock.now() == 1000
    assert clock.timer(999).done()


async def test_a_fast_clock_runs_by_itself() -> None:
    """An hour at 3600 times 100 takes ten milliseconds, whatever was cancelled in front of it."""
    clock = Clock(360_000)
    clock.timer(clock.now() + 1800).cancel()
    async with asyncio.timeout(5):
        await clock.timer(clock.now() + 3600)
    assert clock.next_due() is None


async def test_a_closed_clock_fires_nothing() -> None:
    """No timer is left in the loop."""
    clock = Clock(1)
    timer = clock.timer(clock.now() + 3600)
    clock.close()
    clock.close()
    clock.advance_to(clock.now() + 7200)
    assert not timer.done()


@pytest.mark.parametrize("speed", [-1.0, 1e10, float("nan")])
def test_an_impossible_speed_is_refused(speed: float) -> None:
    """With the range."""
    with pytest.raises(ValueError, match="speed"):
        Clock(speed)


async def test_a_gate_lets_in_by_order_and_number() -> None:
    """Two at once; the next only when one has left; one that gave up is skipped."""
    gate = Gate(Clock(0), parallelism=2)
    tickets = [gate.draw() for _ in range(5)]
    assert [ticket.done() for ticket in tickets] == [True, True, False, False, False]
    tickets[2].cancel()
    gate.leave(tickets[2])
    gate.leave(tickets[0])
    gate.leave(tickets[0])
    assert [ticket.done() for ticket in tickets] == [True, True, True, True, False]
    gate.limit(parallelism=None)
    assert tickets[4].done()


async def test_a_cancelled_owner_holds_nobody_up() -> None:
    """A ticket cancelled in the queue is passed over even before it is given back."""
    gate = Gate(Clock(0), parallelism=1)
    first, second, third = gate.draw(), gate.draw(), gate.draw()
    second.cancel()
    gate.leave(first)
    assert third.done()


async def test_a_rate_counts_by_periods() -> None:
    """Two a minute: the third goes when the minute is over; leaving early does not help."""
    clock = Clock(0, start=1000.0)
    gate = Gate(clock)
    gate.limit(rate=2, period_s=60.0)
    tickets = [gate.draw() for _ in range(5)]
    gate.leave(tickets[0])
    assert [ticket.done() for ticket in tickets] == [True, True, False, False, False]
    clock.advance_to(1060)
    await turn()
    assert [ticket.done() for ticket in tickets] == [True, True, True, True, False]
    clock.advance_to(1120)
    await turn()
    assert tickets[4].done()
