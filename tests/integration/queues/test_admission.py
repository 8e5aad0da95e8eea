"""The accept and refund scripts on a real server: judged once, all or nothing, the count kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from redis.exceptions import ResponseError

from daemon.config import QueueSettings, RedisSettings
from daemon.config.types import SecretStr
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError, RedisFull
from daemon.domain.messages import ImageRef, TaskMessage, WorkEntry
from daemon.domain.model_io import Picture
from daemon.queues.admission import (
    Accepted,
    Admission,
    Conflict,
    Duplicate,
    Full,
    Verdict,
    blob_reference,
)
from daemon.queues.reservations import Reservation, Reservations, Reserved
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.ownership import claim_environment
from daemon.redis_client.scripts import Scripts

QUEUE = "q_paid_vision"
NAMES = keys.queue_keys(QUEUE)
SHA = "a" * 64
Client = Any  #: redis-py types every reply as a union of what any server may say


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[Client]:
    client = connect(redis_settings)
    yield client
    await client.aclose()


@pytest.fixture
def scripts(client: Client) -> Scripts:
    return Scripts(client)


@pytest.fixture
def admission(scripts: Scripts) -> Admission:
    return Admission(scripts, QueueSettings(), SystemClock())


@pytest.fixture
def reservations(scripts: Scripts) -> Reservations:
    return Reservations(scripts, QueueSettings())


def message(task_id: str = "t1", **more: Any) -> TaskMessage:
    return TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="photo", user_id="u1", **more)


def with_image() -> TaskMessage:
    return message(images=[ImageRef(data="AAAA")])


async def accept(admission: Admission, task_id: str = "t1", *, limit: int = 3, sha: str = SHA, **more: Any) -> Verdict:
    return await admission.accept(message(task_id, **more), sha, limit, {})


async def snapshot(client: Client) -> dict[str, object]:
    """Everything there is, so that "nothing changed" can be said."""
    return {key.decode(): await client.dump(key) for key in sorted(await client.keys("*"))}


async def test_an_accepted_message_is_in_the_stream_and_counted(admission: Admission, client: Client) -> None:
    """Entry, `seen`, place and counter, in one flush; the entry is read as it was written."""
    verdict = await accept(admission, variables={"a": 1})
    assert isinstance(verdict, Accepted)
    assert verdict.position == 1
    [(entry_id, fields)] = await client.xrange(NAMES.tasks)
    assert entry_id.decode() == verdict.entry_id
    entry = msgspec.json.decode(fields[b"task"], type=WorkEntry)
    assert (entry.message, entry.sha256) == (message(variables={"a": 1}), SHA)
    assert abs(entry.accepted_at / 1000 - SystemClock().time()) < 5
    assert await client.get(keys.dedup(QUEUE, "t1")) == f"{verdict.entry_id}:{SHA}".encode()
    assert 7 * 86400 - 5 < await client.ttl(keys.dedup(QUEUE, "t1")) <= 7 * 86400
    assert await client.get(NAMES.counter) == b"1"
    [(member, score)] = await client.zrange(NAMES.waiting, 0, -1, withscores=True)
    assert member == b"t1"
    assert abs(score / 1000 - SystemClock().time()) < 5


async def test_accepting_is_one_flush(admission: Admission, scripts: Scripts) -> None:
    await accept(admission)
    before = scripts.flushes
    await accept(admission, "t2")
    assert scripts.flushes == before + 1


async def test_the_same_message_again_gets_the_entry_of_then(admission: Admission, client: Client) -> None:
    """Also when the queue is full by now, and when its place was given back long ago."""
    first = await accept(admission, limit=1)
    assert isinstance(first, Accepted)
    before = await snapshot(client)
    assert await accept(admission, limit=1) == Duplicate(first.entry_id)
    assert await accept(admission, limit=1, sha="b" * 64) == Conflict(first.entry_id)
    assert await snapshot(client) == before


async def test_fifty_at_once_make_one_entry(admission: Admission, client: Client) -> None:
    verdicts = await asyncio.gather(*(accept(admission, limit=10) for _ in range(50)))
    assert sum(isinstance(v, Accepted) for v in verdicts) == 1
    assert len({v.entry_id for v in verdicts if isinstance(v, Accepted | Duplicate)}) == 1
    assert await client.xlen(NAMES.tasks) == 1
    assert await client.get(NAMES.counter) == b"1"


@pytest.mark.redis_forms("server")  # 125 producers wait for one connection; a node of a busy cluster is too slow
async def test_a_thousand_producers_race_for_the_last_ten_places(redis_settings: RedisSettings, client: Client) -> None:
    """Ten get one, whether they promise or deliver, over eight connections, though each asks twice."""
    size = 200
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(redis_settings, size=1)) for _ in range(8)]
        doors = [Admission(Scripts(one), QueueSettings(), SystemClock()) for one in clients]
        reservers = [Reservations(Scripts(one), QueueSettings()) for one in clients]
        for n in range(size - 10):
            assert isinstance(await reservers[0].reserve(QUEUE, f"before{n}", SHA, size), Reserved)

        async def producer(n: int) -> tuple[Reservation | Verdict, ...]:
            door, task_id = doors[n % len(doors)], f"t{n}"
            if n % 2:
                return tuple([await reservers[n % len(doors)].reserve(QUEUE, task_id, SHA, size) for _ in range(2)])
            return tuple([await accept(door, task_id, limit=size) for _ in range(2)])

        answers = await asyncio.gather(*(producer(n) for n in range(1000)))
    let_in = [found for found in answers if not isinstance(found[0], Full)]
    assert len(let_in) == 10
    assert all(isinstance(first, Reserved | Accepted) for first, _ in let_in)
    assert all(isinstance(second, Reserved | Duplicate) for _, second in let_in)
    assert all(isinstance(again, Full) for found in answers if found not in let_in for again in found)
    assert int(await client.get(NAMES.counter)) == await client.zcard(NAMES.waiting) == size
    assert await client.xlen(NAMES.tasks) == sum(isinstance(first, Accepted) for first, _ in let_in)


async def test_a_full_queue_refuses_and_keeps_nothing(admission: Admission, client: Client) -> None:
    for n in range(3):
        assert isinstance(await accept(admission, f"t{n}"), Accepted)
    before = await snapshot(client)
    assert await accept(admission, "t9") == Full(3, 3)
    assert await snapshot(client) == before


@pytest.mark.parametrize(
    ("control", "limit", "accepted"), [("1", 3, False), ("9", 1, True), ("0", 9, False), ("x", 1, False)]
)
async def test_the_size_in_the_control_hash_wins(
    admission: Admission, client: Client, control: str, limit: int, *, accepted: bool
) -> None:
    """A value that is no number is passed over."""
    await accept(admission, "t0")
    await client.hset(NAMES.control, "maxSize", control)
    assert isinstance(await accept(admission, limit=limit), Accepted) == accepted


async def test_a_place_that_the_producer_took_is_kept(admission: Admission, client: Client) -> None:
    """No second INCR, the time of the promise stays, and a queue that filled up meanwhile does not matter."""
    await client.zadd(NAMES.waiting, {"other": 500, "t1": 1000})
    await client.set(NAMES.counter, 2)
    verdict = await accept(admission, limit=1)
    assert isinstance(verdict, Accepted)
    assert verdict.position == 2
    assert await client.get(NAMES.counter) == b"2"
    assert await client.zscore(NAMES.waiting, "t1") == 1000


async def test_a_counted_message_is_never_full_and_not_counted_again(admission: Admission, client: Client) -> None:
    """Its producer did a bare INCR; the member is added so that the place can be given back."""
    await client.set(NAMES.counter, 7)
    assert isinstance(await accept(admission, limit=1, counted=True), Accepted)
    assert await client.get(NAMES.counter) == b"7"
    assert await client.zscore(NAMES.waiting, "t1") is not None
    assert isinstance(await accept(admission, limit=1, counted=True), Duplicate)
    assert await client.get(NAMES.counter) == b"7"


async def test_a_counter_below_the_set_does_not_open_the_queue(admission: Admission, client: Client) -> None:
    """A lost counter key must not let twice as many in."""
    await client.zadd(NAMES.waiting, {"a": 1, "b": 2, "c": 3})
    assert await accept(admission) == Full(3, 3)


async def test_a_dry_run_judges_and_writes_nothing(admission: Admission, client: Client) -> None:
    verdict = await admission.accept(message(), SHA, 1, {0: Picture("image/png", b"x")}, dry_run=True)
    assert verdict == Accepted("", 1)
    assert await client.keys("*") == []
    await accept(admission, limit=1)
    before = await snapshot(client)
    assert await admission.accept(message("t2"), SHA, 1, {}, dry_run=True) == Full(1, 1)
    assert isinstance(await admission.accept(message(), SHA, 1, {}, dry_run=True), Duplicate)
    assert await snapshot(client) == before


async def test_a_dry_run_knows_the_place_of_a_promise(admission: Admission, client: Client) -> None:
    await client.zadd(NAMES.waiting, {"t0": 1, "t1": 2, "t2": 3})
    assert await admission.accept(message(), SHA, 1, {}, dry_run=True) == Accepted("", 2)


async def test_image_bytes_lie_beside_the_stream(admission: Admission, client: Client) -> None:
    """The entry carries a reference; other forms stay as they are; the bytes have an end of life."""
    inline, stored = ImageRef(data="AAAA", mime_type="image/png"), ImageRef(file_key="images/x.jpg")
    pictures = {0: Picture("image/png", b"\x00png"), 2: Picture("image/jpeg", b"\xffjpeg" * 50_000)}
    sent = message(images=[inline, stored, ImageRef(data="BBBB")])
    assert isinstance(await admission.accept(sent, SHA, 3, pictures), Accepted)
    [(_, fields)] = await client.xrange(NAMES.tasks)
    assert len(fields[b"task"]) < 1000
    images = msgspec.json.decode(fields[b"task"], type=WorkEntry).message.images
    assert images == [
        ImageRef(mime_type="image/png", blob=blob_reference(QUEUE, "t1", 0)),
        stored,
        ImageRef(mime_type="image/jpeg", blob=blob_reference(QUEUE, "t1", 2)),
    ]
    for index, picture in pictures.items():
        reference = blob_reference(QUEUE, "t1", index)
        assert reference == f"redis:{keys.blob(QUEUE, 't1', index)}"
        assert await client.get(reference.removeprefix("redis:")) == picture.data
        assert await client.ttl(reference.removeprefix("redis:")) > 6 * 86400


WRONG = ["tasks", "waiting", "counter", "control", "seen"]


@pytest.mark.parametrize("which", WRONG)
async def test_a_key_of_a_wrong_type_leaves_no_half_write(admission: Admission, client: Client, which: str) -> None:
    """Scripts are not rolled back, so whatever may fail comes before the first write."""
    key = keys.dedup(QUEUE, "t1") if which == "seen" else getattr(NAMES, which)
    await client.sadd(key, "x")
    before = await snapshot(client)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await admission.accept(with_image(), SHA, 3, {0: Picture("image/png", b"x")})
    assert await snapshot(client) == before


@pytest.mark.parametrize("value", ["many", "1.5", "9223372036854775807", ""])
async def test_a_counter_that_is_no_number_leaves_no_half_write(
    admission: Admission, client: Client, value: str
) -> None:
    await client.set(NAMES.counter, value)
    before = await snapshot(client)
    with pytest.raises(ResponseError, match="not an integer"):
        await accept(admission)
    assert await snapshot(client) == before


async def test_a_negative_counter_is_counted_up_from(admission: Admission, client: Client) -> None:
    """Somebody's stray DECR must not stop the queue; the repair of drift raises it."""
    await client.set(NAMES.counter, -2)
    assert isinstance(await accept(admission), Accepted)
    assert await client.get(NAMES.counter) == b"-1"


async def test_a_full_redis_refuses_all_of_it(redis_server: EmbeddedRedis) -> None:
    """XADD comes first: nothing half done, and the same message is accepted once there is room."""
    client: Client = connect(RedisSettings(url=SecretStr(redis_server.url)))
    admission = Admission(Scripts(client), QueueSettings(), SystemClock())
    try:
        await accept(admission, "t0")
        before = await snapshot(client)
        await client.config_set("maxmemory", "1")
        with pytest.raises(RedisFull):
            await admission.accept(with_image(), SHA, 3, {0: Picture("image/png", b"x")})
        assert isinstance(await accept(admission, "t0"), Duplicate)
        await client.config_set("maxmemory", "0")
        assert await snapshot(client) == before
        assert isinstance(await accept(admission), Accepted)
    finally:
        await client.aclose()


async def test_a_place_is_given_back_once(reservations: Reservations, client: Client) -> None:
    """However often the failure callback comes."""
    await client.zadd(NAMES.waiting, {"t1": 1, "t2": 2})
    await client.set(NAMES.counter, 2)
    assert await reservations.cancel(QUEUE, "t1")
    assert await reservations.cancel(QUEUE, "t1")
    assert await client.get(NAMES.counter) == b"1"
    assert await client.zrange(NAMES.waiting, 0, -1) == [b"t2"]


async def test_an_accepted_message_keeps_its_place(
    admission: Admission, reservations: Reservations, client: Client
) -> None:
    """The callback may be late, or about another delivery of the same task."""
    await accept(admission)
    before = await snapshot(client)
    assert not await reservations.cancel(QUEUE, "t1")
    assert await snapshot(client) == before


async def test_a_refund_never_drives_the_counter_below_zero(reservations: Reservations, client: Client) -> None:
    await client.zadd(NAMES.waiting, {"t1": 1})
    assert await reservations.cancel(QUEUE, "t1")
    assert await client.get(NAMES.counter) == b"0"


async def test_a_place_is_given_back_on_a_full_redis(redis_server: EmbeddedRedis) -> None:
    """ZREM comes first, so that the DECR after it is let through."""
    client: Client = connect(RedisSettings(url=SecretStr(redis_server.url)))
    reservations = Reservations(Scripts(client), QueueSettings())
    try:
        await client.zadd(NAMES.waiting, {"t1": 1})
        await client.set(NAMES.counter, 1)
        await client.config_set("maxmemory", "1")
        assert await reservations.cancel(QUEUE, "t1")
        assert await client.get(NAMES.counter) == b"0"
    finally:
        await client.aclose()


async def test_the_first_environment_owns_the_server(client: Client) -> None:
    """Another one refuses to start and learns whose it is; the same one may come as often as it likes."""
    await asyncio.gather(*(claim_environment(client, "production") for _ in range(5)))
    with pytest.raises(ConfigError, match=r"NODE_ENV.*staging.*production"):
        await claim_environment(client, "staging")
    assert await client.get(keys.ENVIRONMENT) == b"production"
    assert await client.ttl(keys.ENVIRONMENT) == -1
