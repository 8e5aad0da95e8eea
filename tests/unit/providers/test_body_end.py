"""When a body that stays open is left: by what came, and by how long nothing more has come."""

from __future__ import annotations

import asyncio

import pytest

from daemon.providers.answer import Answer
from daemon.providers.body_end import BodyEnd
from daemon.providers.openai_answer import OpenAIAnswer
from tests.unit.providers.test_answer import chunk

IDLE_S = 40.0


class Body:
    """Remembers that it was left."""

    stopped = False

    def stop(self) -> None:
        self.stopped = True


def due(end: BodyEnd) -> float:
    """Seconds from the last byte until the body is left."""
    return end._due() - end._byte


def heard(*reads: tuple[float, bytes]) -> tuple[Answer, BodyEnd]:
    """Each read after a pause, on a clock of its own."""
    answer = OpenAIAnswer()
    end = BodyEnd(answer, None, IDLE_S)
    now = 0.0
    end._loop = type("Clock", (), {"time": lambda _: now})()
    for pause, data in reads:
        now += pause
        texts = len(answer.take(data)) if data else 0
        end.came(payload=bool(data), texts=texts)
    return answer, end


async def test_two_seconds_where_nothing_follows() -> None:
    _, end = heard((0, chunk("a")), (9, chunk(finish="stop")))
    assert due(end) == pytest.approx(2.0)


async def test_keep_alives_put_nothing_off_then() -> None:
    _, end = heard((0, chunk("a")), (1, chunk(finish="stop")), (1.5, b""))
    assert due(end) == pytest.approx(0.5)


async def test_three_times_the_longest_pause_after_other_ends() -> None:
    _, end = heard((0, chunk("a")), (3, chunk("b")), (1, chunk("c", "stop")))
    assert due(end) == pytest.approx(9.0)
    _, end = heard((0, chunk("a")), (0.1, chunk("b", "stop")))
    assert due(end) == pytest.approx(2.0)


async def test_one_text_says_nothing_of_pauses() -> None:
    """Just before the limit of the caller, who would end it as a failure."""
    _, end = heard((0, chunk("a", "stop")))
    assert IDLE_S - 1 < due(end) < IDLE_S


async def test_the_caller_never_ends_first() -> None:
    _, end = heard((0, chunk("a")), (30, chunk("b", "stop")), (5, b""))
    assert due(end) < IDLE_S - 5
    _, end = heard((0, chunk("a")), (39, chunk(finish="stop")))
    assert due(end) < 1


async def test_an_answer_that_opens_again_is_not_left() -> None:
    answer, body = OpenAIAnswer(), Body()
    with BodyEnd(answer, body, 0.05) as end:
        answer.take(chunk("a", "stop"))
        end.came(payload=True, texts=1)
        answer.take(chunk("b"))
        end.came(payload=True, texts=1)
        end._due = lambda: 0.0  # type: ignore[method-assign]
        end._fire()
        assert (body.stopped, end.stopped) == (False, None)
        answer.take(b"[DONE]")
        end._fire()
        assert (body.stopped, str(end.stopped)) == (True, "the body stayed open")
    await asyncio.sleep(0)
