"""What is asked together is answered apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from daemon.redis_client.batcher import Batcher


class Server:
    """Doubles numbers, one batch after another; `gate` holds its answers back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def asked(self, times: int) -> None:
        while len(self.batches) < times:  # noqa: ASYNC110  # a few turns of the loop
            await asyncio.sleep(0)

    async def send(self, numbers: list[int]) -> Sequence[int | Exception]:
        self.batches.append(numbers)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [ValueError(str(n)) if n < 0 else 2 * n for n in numbers]


async def test_a_lone_question_leaves_at_once() -> None:
    """Nobody waits for company."""
    server = Server()
    assert await Batcher(server.send, lanes=1, most=8).ask(4) == 8
    assert server.batches == [[4]]


async def test_questions_of_one_turn_travel_together_and_in_order() -> None:
    server = Server()
    batcher = Batcher(server.send, lanes=1, most=8)
    assert await asyncio.gather(*(batcher.ask(n) for n in range(5))) == [0, 2, 4, 6, 8]
    assert server.batches == [[0, 1, 2, 3, 4]]


async def test_what_comes_while_an_answer_is_under_way_goes_with_the_next() -> None:
    server = Server()
    server.gate.clear()
    batcher = Batcher(server.send, lanes=1, most=8)
    first = asyncio.gather(batcher.ask(1))
    await server.asked(1)
    rest = asyncio.gather(batcher.ask(2), batcher.ask(3))
    await asyncio.sleep(0.01)
    assert server.batches == [[1]]
    server.gate.set()
    assert [*await first, *await rest] == [2, 4, 6]
    assert server.batches == [[1], [2, 3]]


async def test_a_second_lane_does_not_wait_for_the_first() -> None:
    server = Server()
    server.gate.clear()
    batcher = Batcher(server.send, lanes=2, most=8)
    first = asyncio.gather(batcher.ask(1))
    await server.asked(1)
    second = asyncio.gather(batcher.ask(2))
    await server.asked(2)
    server.gate.set()
    assert [*await first, *await second] == [2, 4]


async def test_a_batch_has_a_limit() -> None:
    server = Server()
    batcher = Batcher(server.send, lanes=2, most=2)
    assert await asyncio.gather(*(batcher.ask(n) for n in range(5))) == [0, 2, 4, 6, 8]
    assert server.batches == [[0, 1], [2, 3], [4]]


async def test_one_answer_that_is_an_error_is_one_asker_s_error() -> None:
    batcher = Batcher(Server().send, lanes=1, most=8)
    one, two, three = await asyncio.gather(*(batcher.ask(n) for n in (1, -2, 3)), return_exceptions=True)
    assert (one, three) == (2, 6)
    assert isinstance(two, ValueError)


async def test_a_send_that_fails_fails_for_each_and_the_next_one_goes_out() -> None:
    server = Server()
    server.error = OSError("away")
    batcher = Batcher(server.send, lanes=1, most=8)
    found = await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)
    assert [type(error) for error in found] == [OSError, OSError]
    server.error = None
    assert await batcher.ask(3) == 6


async def test_a_cancelled_asker_leaves_the_others_their_answers() -> None:
    """Also when the cancel comes before anything was sent: then its question is not asked at all."""
    server = Server()
    server.gate.clear()
    batcher = Batcher(server.send, lanes=1, most=8)
    async with asyncio.TaskGroup() as group:
        one, two = group.create_task(batcher.ask(1)), group.create_task(batcher.ask(2))
        await server.asked(1)
        three, four = group.create_task(batcher.ask(3)), group.create_task(batcher.ask(4))
        await asyncio.sleep(0)
        one.cancel()
        three.cancel()
        server.gate.set()
    assert (two.result(), four.result()) == (4, 8)
    assert one.cancelled()
    assert three.cancelled()
    assert server.batches == [[1, 2], [4]]


async def test_the_end_of_the_loop_ends_those_who_wait() -> None:
    """A cancelled flush answers nobody: its askers are cancelled too, instead of waiting for ever."""
    server = Server()
    server.gate.clear()
    batcher = Batcher(server.send, lanes=1, most=8)
    asking = asyncio.gather(batcher.ask(1), return_exceptions=True)
    await server.asked(1)
    for task in asyncio.all_tasks():
        if task.get_name() == "gathering":
            task.cancel()
    (answer,) = await asking
    assert isinstance(answer, asyncio.CancelledError)


async def test_a_question_of_nobody_is_withdrawn() -> None:
    """All who travelled in it were cancelled: so is what is under way, and the next one goes out."""
    server = Server()
    server.gate.clear()
    batcher = Batcher(server.send, lanes=1, most=8)
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(batcher.ask(n)) for n in (1, 2)]
        await server.asked(1)
        for task in both:
            task.cancel()
    assert all(task.cancelled() for task in both)
    server.gate.set()
    assert await batcher.ask(3) == 6


async def test_where_order_matters_a_cancelled_asker_stays_until_its_question_is_over() -> None:
    """A second try can't be overtaken by the first."""
    server = Server()
    server.gate.clear()
    batcher = Batcher(server.send, lanes=2, most=8, waits_when_cancelled=True)
    async with asyncio.TaskGroup() as group:
        one, two = group.create_task(batcher.ask(1)), group.create_task(batcher.ask(2))
        await server.asked(1)
        one.cancel()
        await asyncio.wait({one}, timeout=0.02)
        assert not one.done()
        server.gate.set()
        await asyncio.wait({one}, timeout=1)
        assert one.cancelled()
        assert await two == 4
