"""The append script on real servers: the single owner of the order of a task's events."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from daemon.config import EventSettings, RedisSettings
from daemon.config.types import SecretStr
from daemon.domain import event_schema
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code, RedisFull
from daemon.domain.events import (
    CURRENT_ATTEMPT,
    Channel,
    Event,
    EventDraft,
    Stage,
    Usage,
    done,
    error,
    progress,
    started,
    token_batch,
)
from daemon.events.log import EventLog
from daemon.ports import Appended
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from tests.integration.redis_side import Side, task
from tests.proxy import Proxy

pytestmark = [pytest.mark.redis_versions, pytest.mark.usefixtures("redis_version")]

OK = Appended(accepted=True, ended=False, cancel=False)
STALE = Appended(accepted=False, ended=False, cancel=False)
OVER = Appended(accepted=False, ended=True, cancel=False)
STREAM, STATE = keys.events("t1"), keys.events_state("t1")


def text(content: str) -> EventDraft:
    return token_batch(content, Channel.TEXT)


def end() -> EventDraft:
    return error(Stage.EXECUTE, Code.LLM_ERROR, "failed", retryable=False)


def brief(events: list[Event]) -> list[tuple[str, int, int]]:
    return [(str(e.type), e.data["attempt"], e.data["seq"]) for e in events]


async def test_every_stored_event_is_valid_under_the_published_schema(side: Side) -> None:
    """Head, common fields and own fields make one JSON document, whatever is in them."""
    await side.events.queued(task(), position=3)
    drafts = [
        started("m"), text('quotes " and \\ and \u2028 and 😀'), progress(Stage.QUEUE, "x", percent=1.5),
        done("t1", usage=Usage(1, 0, 2), model_id="m", content_sha256="0" * 64, result={"a": [1]}),
    ]  # fmt: skip
    await side.events.append(task(), 1, drafts)
    entries: Any = await side.client.xrange(STREAM)
    for _, fields in entries:
        assert set(fields) == {b"type", b"data"}
        parsed = msgspec.json.decode(fields[b"data"], type=event_schema.WorkerEvent)
        assert parsed.task_id == "t1"
        assert msgspec.json.decode(fields[b"data"])["type"] == fields[b"type"].decode()
    stored = await side.events.read("t1")
    assert stored[0].data["position"] == 3
    assert stored[2].data["delta"] == 'quotes " and \\ and \u2028 and 😀'


async def test_events_are_numbered_within_their_attempt(side: Side) -> None:
    """`queued` is 0:0; each attempt begins at 1; whatever the stream saw last goes on from there."""
    await side.events.append(task(), CURRENT_ATTEMPT, [progress(Stage.GUARDS, "waits")])
    assert await side.events.append(task(), 1, [started("m"), text("a")]) == OK
    assert await side.events.append(task(), CURRENT_ATTEMPT, [progress(Stage.QUEUE, "again")]) == OK
    assert await side.events.append(task(), 2, [started("m")]) == OK
    assert await side.events.append(task(), 2, [end()]) == OK
    assert brief(await side.events.read("t1")) == [
        ("queued", 0, 0), ("progress", 0, 1), ("started", 1, 1), ("token_batch", 1, 2), ("progress", 1, 3),
        ("started", 2, 1), ("error", 2, 2),
    ]  # fmt: skip


async def test_queued_comes_first_and_once_whoever_is_first(side: Side, other: Side) -> None:
    """The relay or the daemon; forty at a time; and one that a producer wrote before us is kept."""
    await asyncio.gather(*(s.events.queued(task()) for s in (side, other) for _ in range(20)))
    await side.events.append(task(), 1, [started("m")])
    assert [e.type for e in await side.events.read("t1")] == ["queued", "started"]
    own = {"v": 1, "type": "queued", "taskId": "t2", "queueId": "q", "attempt": 0, "seq": 0, "mine": True}
    await side.client.xadd(keys.events("t2"), {"type": "queued", "data": msgspec.json.encode(own)})
    await side.events.queued(task("t2"))
    await side.events.append(task("t2"), 1, [started("m")])
    events = await side.events.read("t2")
    assert [e.type for e in events] == ["queued", "started"]
    assert events[0].data == own


async def test_a_lower_attempt_is_refused(side: Side) -> None:
    """A zombie's text never reaches a viewer who already sees the next attempt."""
    await side.events.append(task(), 2, [started("m")])
    before = await side.events.read("t1")
    assert await side.events.append(task(), 1, [text("zombie")]) == STALE
    assert await side.events.append(task(), 1, [end()]) == STALE
    assert await side.events.read("t1") == before


async def test_a_number_that_was_handed_out_twice_starts_once(side: Side, other: Side) -> None:
    """Postgres lost the claim of `a`: neither `b` nor `a` begins that attempt again, and both learn the number."""
    await side.events.append(task(), 3, [started("m"), text("of a")])
    before = await side.events.read("t1")
    for events in (other.events, side.events):
        refused = await events.append(task(), 3, [started("m")])
        assert (refused, refused.attempt) == (STALE, 3)
    assert await side.events.read("t1") == before
    assert await other.events.append(task(), 4, [started("m")]) == OK
    assert await side.events.append(task(), 3, [text("zombie")]) == STALE


async def test_the_words_of_another_owner_are_refused(side: Side, other: Side) -> None:
    """Of the same attempt: deltas and the end. Bystanders go on, and so does whoever repeats an end after a look."""
    await side.events.append(task(), 1, [started("m"), text("a")])
    assert await other.events.append(task(), 1, [text("b")]) == STALE
    assert await other.events.append(task(), 1, [end()]) == STALE
    assert await other.events.append(task(), CURRENT_ATTEMPT, [progress(Stage.QUEUE, "waits")]) == OK
    assert await side.events.append(task(), 1, [text("c")]) == OK
    text_so_far, seq = await other.events.streamed_text("t1", 1)
    call = other.events.append_call(task(), 1, [text("d"), end()], after=seq)
    assert other.events.appended((await other.scripts.run([call]))[0]) == OK
    assert (text_so_far, (await side.events.streamed_text("t1", 1))[0]) == ("ac", "acd")


@pytest.mark.parametrize("owner", [b"", None])
async def test_an_attempt_that_a_former_release_began_goes_on(side: Side, owner: bytes | None) -> None:
    """Its events name no owner: whoever appends first is one."""
    await side.events.append(task(), 1, [started("m")])
    await side.client.hdel(STATE, "owner")
    if owner is not None:
        await side.client.hset(STATE, "owner", owner)
    assert await side.events.append(task(), 1, [text("a")]) == OK
    assert await side.client.hget(STATE, "owner") == b"a"


@pytest.mark.parametrize("attempt", [1, 2, 9, CURRENT_ATTEMPT])
async def test_nothing_follows_the_terminal_event(side: Side, attempt: int) -> None:
    """Exactly one end, for any attempt; `queued` is not written again either."""
    assert await side.events.append(task(), 1, [started("m"), end()]) == OK
    before = await side.events.read("t1")
    assert await side.events.append(task(), attempt, [text("late"), end()]) == OVER
    await side.events.queued(task())
    assert await side.events.read("t1") == before


async def test_the_same_append_again_adds_nothing(side: Side) -> None:
    """A reply that was lost is asked for again: a success, told as one, also where it ended the stream."""
    for drafts in ([started("m"), text("a")], [end()]):
        call = side.events.append_call(task(), 1, drafts)
        first = side.events.appended((await side.scripts.run([call]))[0])
        before = await side.events.read("t1")
        again = side.events.appended((await side.scripts.run([call]))[0])
        assert (first, again) == (OK, OK)
        assert await side.events.read("t1") == before


async def test_two_appends_of_the_same_text_are_two(side: Side) -> None:
    """A model may say the same thing twice."""
    await side.events.append(task(), 1, [text("ha")])
    await side.events.append(task(), 1, [text("ha")])
    assert [e.data.get("delta") for e in await side.events.read("t1")] == [None, "ha", "ha"]


async def test_a_cancel_is_told_with_the_next_answer(side: Side) -> None:
    """Whoever appends learns of it, accepted or not."""
    await side.events.append(task(), 1, [started("m")])
    await side.client.hset(STATE, "cancel", 1)
    assert (await side.events.append(task(), 1, [text("a")])).cancel
    assert await side.events.append(task(), 0, [text("a")]) == Appended(accepted=False, ended=False, cancel=True)


async def test_a_stream_lives_a_day_after_its_last_event_and_an_hour_after_its_end(side: Side) -> None:
    """Both keys always have an end of life, and together."""
    for drafts, seconds in (([started("m")], 86400), ([end()], 3600)):
        await side.events.append(task(), 1, drafts)
        for key in (STREAM, STATE):
            assert seconds - 5 <= await side.client.ttl(key) <= seconds
    await side.events.queued(task("t2"))
    assert await side.client.ttl(keys.events("t2")) > 86000


async def test_reading_goes_on_after_any_cursor(side: Side) -> None:
    """The stream id is the only order: pages put together are the whole."""
    await side.events.append(task(), 1, [text(str(number)) for number in range(10)])
    whole = await side.events.read("t1")
    pages, after = list[Event](), "0-0"
    while page := await side.events.read("t1", after, count=3):
        pages += page
        after = page[-1].id
    assert pages == whole
    assert await side.events.read("nobody") == []


async def test_a_full_server_refuses_all_of_an_append(side: Side) -> None:
    """Nothing is written by halves, so the same append may be made again later."""
    await side.events.append(task(), 1, [started("m")])
    before = await side.events.read("t1")
    await side.client.config_set("maxmemory", "1")
    try:
        call = side.events.append_call(task(), 1, [text("a"), end()])
        with pytest.raises(RedisFull):
            await side.scripts.run([call])
        assert await side.events.read("t1") == before
    finally:
        await side.client.config_set("maxmemory", "0")
    assert side.events.appended((await side.scripts.run([call]))[0]) == OK
    assert len(await side.events.read("t1")) == len(before) + 2


@pytest.mark.redis_forms("server")
async def test_a_reply_lost_on_the_wire_doubles_nothing(side: Side, redis_settings: RedisSettings) -> None:
    """The client sends again over a new connection; the viewer sees each text once, in order."""
    url = redis_settings.url.get_secret_value()
    async with Proxy.before(url) as proxy, connect(RedisSettings(url=SecretStr(proxy.url_of(url)))) as client:
        events = EventLog(Scripts(client), EventSettings(), SystemClock())
        for number in range(20):
            if number % 3 == 1:
                proxy.lose_reply()
            assert await events.append(task(), 1, [text(str(number))]) == OK
        assert proxy.lost == 7
    told = [e.data["delta"] for e in await side.events.read("t1") if e.type == "token_batch"]
    assert told == [str(number) for number in range(20)]
