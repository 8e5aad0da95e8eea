"""Following a task over real servers: nothing missed, nothing twice, and an end in every case."""

from __future__ import annotations

import asyncio
import json

from daemon.domain import events, messages
from daemon.domain.errors import Code
from daemon.domain.events import Channel, Stage, Usage
from tests.integration.gateway.conftest import Open, Rig
from tests.integration.gateway.frames import all_events, frames
from tests.waiting import WaitUntil

DONE = events.done("t1", usage=Usage(), model_id="m1", content_sha256=messages.content_sha256("ab"), result="ab")


def text(delta: str) -> events.EventDraft:
    return events.token_batch(delta, Channel.TEXT)


async def test_an_ended_task_is_told_from_the_beginning(rig: Rig) -> None:
    """Frames in order with their stream ids; the answer ends after the terminal event."""
    await rig.append("t1", [events.started("m1"), text("a"), text("b"), DONE])
    async with rig.follow("t1") as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        seen = await all_events(answer)
    assert [f.event for f in seen] == ["queued", "started", "token_batch", "token_batch", "done"]
    stored = [entry_id.decode() for entry_id, _ in await rig.redis.xrange("task:t1:events")]
    assert [f.id for f in seen] == stored
    assert all(f.data["type"] == f.event and f.data["taskId"] == "t1" for f in seen)


async def test_the_first_bytes_come_before_the_first_event(rig: Rig) -> None:
    """Proxies and browsers open the stream on them; the task may not be known to anybody yet."""
    async with rig.follow("not-yet-delivered") as answer:
        assert await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 1) == b": ok\n\n"
        await rig.append("not-yet-delivered", [DONE])
        assert [f.event for f in await all_events(answer)] == ["queued", "done"]


async def test_live_events_come_as_they_are_written(rig: Rig, wait_until: WaitUntil) -> None:
    """Each within a moment, and the stream ends with the task."""
    async with rig.follow("t1") as answer:
        coming = frames(answer)
        assert (await anext(coming)).raw == ": ok"
        for n in range(20):
            await rig.append("t1", [text(str(n))])
            if n == 0:
                assert (await anext(coming)).event == "queued"
            frame = await asyncio.wait_for(anext(coming), 0.5)
            assert frame.data["delta"] == str(n)
        await rig.append("t1", [DONE])
        assert [f.event async for f in coming] == ["done"]
    await wait_until(lambda: rig.fan_out.topics == 0, description="the topic is forgotten")


async def test_nothing_is_missed_between_history_and_live(rig: Rig) -> None:
    """Viewers that join at any moment while somebody writes see every event once, in order."""

    async def write() -> None:
        for n in range(400):
            await rig.append("t1", [text(str(n))])
        await rig.append("t1", [DONE])

    async def view(delay_s: float) -> list[str]:
        await asyncio.sleep(delay_s)
        async with rig.follow("t1") as answer:
            return [f.data["delta"] for f in await all_events(answer) if f.event == "token_batch"]

    async with asyncio.TaskGroup() as group:
        viewers = [group.create_task(view(n * 0.01)) for n in range(40)]
        group.create_task(write())
    assert {tuple(v.result()) for v in viewers} == {tuple(map(str, range(400)))}


async def test_a_long_history_comes_in_pages(rig: Rig) -> None:
    """More than two pages, from the beginning and from a cursor in the middle."""
    for _ in range(13):
        await rig.append("t1", [text("x")] * 100)
    await rig.append("t1", [DONE])
    ids = [entry_id.decode() for entry_id, _ in await rig.redis.xrange("task:t1:events")]
    async with rig.follow("t1") as answer:
        assert [f.id for f in await all_events(answer)] == ids
    async with rig.follow("t1", ids[600]) as answer:
        assert [f.id for f in await all_events(answer)] == ids[601:]


async def test_a_viewer_resumes_at_any_id(rig: Rig) -> None:
    """By header, or by `?after=` where no header can be set; the header wins, since only it moves on."""
    await rig.append("t1", [events.started("m1"), text("a"), text("b"), DONE])
    ids = [entry_id.decode() for entry_id, _ in await rig.redis.xrange("task:t1:events")]
    for at in range(len(ids) - 1):
        async with rig.follow("t1", ids[at]) as answer:
            assert [f.id for f in await all_events(answer)] == ids[at + 1 :]
    async with rig.follow("t1", params={"after": ids[2]}) as answer:
        assert [f.id for f in await all_events(answer)] == ids[3:]
    async with rig.follow("t1", ids[3], params={"after": ids[1]}) as answer:
        assert [f.id for f in await all_events(answer)] == ids[4:]


async def test_a_viewer_that_has_seen_the_end_is_told_not_to_come_back(rig: Rig) -> None:
    """204 stops an EventSource; a poll gets an empty list at once."""
    await rig.append("t1", [DONE])
    last = (await rig.redis.xrevrange("task:t1:events", count=1))[0][0].decode()
    async with rig.follow("t1", last) as answer:
        assert answer.status == 204
    assert await rig.poll("t1", after=last) == {"events": [], "after": last}


async def test_a_cursor_older_than_the_stream_gets_a_gap(rig: Rig) -> None:
    """Without an id, naming the first event there is; then everything there is."""
    await rig.append("t1", [text("a"), DONE])
    first = (await rig.redis.xrange("task:t1:events", count=1))[0][0].decode()
    async with rig.follow("t1", "5-0") as answer:
        gap, *rest = await all_events(answer)
    assert (gap.id, gap.event, gap.data) == (None, "gap", {"type": "gap", "taskId": "t1", "first": first})
    assert [f.event for f in rest] == ["queued", "token_batch", "done"]


async def test_a_cursor_from_another_life_gets_a_gap_and_everything(rig: Rig) -> None:
    """The clock of Redis went back, or its data did: the cursor lies in the future."""
    await rig.append("t1", [DONE])
    async with rig.follow("t1", "99999999999999-0") as answer:
        assert [f.event for f in await all_events(answer)] == ["gap", "queued", "done"]


async def test_a_stream_that_was_lost_under_a_viewer_is_a_gap(rig: Rig) -> None:
    """It held a cursor, Redis was emptied, the task goes on."""
    async with rig.follow("t1", "5-0") as answer:
        await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 1)
        await rig.append("t1", [DONE])
        assert [f.event for f in await all_events(answer)] == ["gap", "queued", "done"]


async def test_a_cursor_that_is_none_starts_at_the_beginning(rig: Rig) -> None:
    """Whatever a client sends: no error, no injection."""
    await rig.append("t1", [DONE])
    for cursor in ("$", "+", "nonsense", "1-2-3", "-1", "0-0"):
        async with rig.follow("t1", cursor) as answer:
            assert [f.event for f in await all_events(answer)] == ["queued", "done"]


async def test_a_retryable_error_is_not_the_end(rig: Rig) -> None:
    """Only `retryable: false` ends a stream."""
    again = events.error(Stage.EXECUTE, Code.LLM_TIMEOUT, "late", retryable=True, retry_at=1.0)
    final = events.error(Stage.EXECUTE, Code.LLM_TIMEOUT, "late", retryable=False)
    await rig.append("t1", [again, final])
    async with rig.follow("t1") as answer:
        assert [f.data.get("retryable") for f in await all_events(answer)] == [None, True, False]


async def test_what_a_stranger_wrote_breaks_no_frame(rig: Rig) -> None:
    """A pretty-printed `queued` becomes one line; an entry of another form is passed over."""
    await rig.redis.xadd("task:t1:events", {"type": "queued", "data": json.dumps({"v": 1, "a": "x\ny"}, indent=2)})
    await rig.redis.xadd("task:t1:events", {"type": "evil\ndata: x", "data": "{}"})
    await rig.redis.xadd("task:t1:events", {"other": "field"})
    await rig.redis.xadd("task:t1:events", {"type": "token_batch", "data": "{\nbroken"})
    await rig.append("t1", [DONE])
    async with rig.follow("t1") as answer:
        seen = await all_events(answer)
    assert [f.event for f in seen] == ["queued", "done"]
    assert seen[0].data["a"] == "x\ny"


async def test_viewers_of_one_task_share_one_watch(rig: Rig, wait_until: WaitUntil) -> None:
    """One topic for all, gone with the last of them."""
    answers = [await rig.follow("t1").__aenter__() for _ in range(20)]
    await wait_until(lambda: rig.fan_out.topics == 1 and len(rig.fan_out.viewers) == 20, description="all watch")
    await rig.append("t1", [text("a")])
    await rig.append("t1", [DONE])
    for answer in answers:
        assert [f.event for f in await all_events(answer)] == ["queued", "token_batch", "done"]
    await wait_until(lambda: not rig.fan_out.viewers and not rig.fan_out.topics, description="nobody is left")


async def test_a_quiet_stream_gets_comments(open_rig: Open) -> None:
    """Proxies see traffic; they carry no id and are no events."""
    async with open_rig(comment_s=0.05) as rig, rig.follow("t1") as answer:
        coming = frames(answer)
        assert [(await anext(coming)).raw for _ in range(3)] == [": ok", ": still here", ": still here"]


async def test_a_stop_ends_all_viewers_with_a_hint(open_rig: Open, wait_until: WaitUntil) -> None:
    """Within a second, with `retry:` jittered; a poll gets its empty list, a socket 1001."""
    async with open_rig() as rig:
        ws = await rig.http.ws_connect(f"{rig.url}/api/tasks/t1/ws?after=0-0", headers=rig.auth("t1"))
        answer = await rig.follow("t1").__aenter__()
        await answer.content.readuntil(b"\n\n")
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(rig.poll("t1"))
            await wait_until(
                lambda: rig.fan_out.topics and len(rig.fan_out.viewers) == 3, description="all three follow"
            )
            began = asyncio.get_running_loop().time()
            rig.process.stop()
            left = [f.raw async for f in frames(answer)]
            assert (await ws.receive()).data == 1001
        assert asyncio.get_running_loop().time() - began < 3  # a second where the machine has nothing else to do
        assert poll.result() == {"events": [], "after": "0-0"}
        assert len(left) == 1 and left[0].startswith("retry: ") and 500 <= int(left[0][7:]) <= 2500
