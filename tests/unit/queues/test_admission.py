"""What the door of a queue decides, by its real scripts on fakeredis.

Full memory, keys of a wrong type and races need a real server: `tests/integration/queues/test_admission.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from daemon.config import QueueSettings
from daemon.domain.clock import SystemClock
from daemon.domain.messages import ImageRef, TaskMessage, WorkEntry
from daemon.domain.model_io import Picture
from daemon.queues.admission import (
    RETRY_AFTER_S_MAX,
    Accepted,
    Admission,
    Conflict,
    Duplicate,
    Full,
    Verdict,
    blob_reference,
    verdict_of,
)
from daemon.queues.reservations import Reservations, Reserved
from daemon.redis_client import keys
from daemon.redis_client.scripts import Scripts

QUEUE = "q_paid_vision"
NAMES = keys.queue_keys(QUEUE)
SHA, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ([b"queued", b"1-0", 3], Accepted("1-0", 3)),
        ([b"duplicate", b"1-0"], Duplicate("1-0")),
        ([b"conflict", b"1-0"], Conflict("1-0")),
        ([b"full", 200, 200, -1], Full(200, 200)),
        ([b"full", 200, 200, 1500], Full(200, 200, 1.5)),
        ([b"queued", b"1-0", 3, 1], Accepted("1-0", 3, paused=True)),
    ],
)
def test_each_reply_is_a_verdict(reply: Any, verdict: Verdict) -> None:
    assert verdict_of(reply) == verdict


def test_a_reply_that_nobody_wrote_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="the accept script answered"):
        verdict_of([b"perhaps"])


def test_a_reference_names_the_key_of_its_bytes() -> None:
    """What the reader of `redis:` references relies on."""
    assert blob_reference("q_paid_vision", "t1", 2) == "redis:{bp:queue:q_paid_vision}:blob:t1:2"


# --- the scripts --------------------------------------------------------------------------------------------------


class FakeShelf:
    """Keeps what is laid on it, and tells what was dropped."""

    def __init__(self) -> None:
        self.laid: list[str] = []

    async def stage(self, message: TaskMessage, pictures: Any) -> dict[int, str]:
        """One reference for each picture."""
        found = {index: f"disk:{message.task_id}:{index}" for index in pictures}
        self.laid += found.values()
        return found

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        """Take them back."""
        self.laid = [reference for reference in self.laid if reference not in references]


@pytest.fixture
def scripts(fake_redis: Any) -> Scripts:
    return Scripts(fake_redis)


@pytest.fixture
def admission(scripts: Scripts) -> Admission:
    return Admission(scripts, QueueSettings(), SystemClock())


@pytest.fixture
def reservations(scripts: Scripts) -> Reservations:
    return Reservations(scripts, QueueSettings())


def message(task_id: str = "t1", **more: Any) -> TaskMessage:
    return TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="photo", user_id="u1", **more)


async def accept(admission: Admission, task_id: str = "t1", *, limit: int = 3, sha: str = SHA, **more: Any) -> Verdict:
    return await admission.accept(message(task_id, **more), sha, limit, {})


async def waiting(redis: Any) -> tuple[list[bytes], bytes | None, int]:
    """Who waits, the counter, and how many entries the stream has."""
    return await redis.zrange(NAMES.waiting, 0, -1), await redis.get(NAMES.counter), await redis.xlen(NAMES.tasks)


async def test_a_message_is_accepted_once(admission: Admission, scripts: Scripts, fake_redis: Any) -> None:
    """Entry, place, count and `seen` in one flush; the same message again finds them and changes nothing."""
    first = await accept(admission, variables={"a": 1})
    assert isinstance(first, Accepted) and first.position == 1
    before = scripts.flushes
    assert await accept(admission, variables={"a": 1}) == Duplicate(first.entry_id)
    assert scripts.flushes == before + 1
    assert await waiting(fake_redis) == ([b"t1"], b"1", 1)
    [(entry_id, fields)] = await fake_redis.xrange(NAMES.tasks)
    assert entry_id.decode() == first.entry_id
    assert msgspec.json.decode(fields[b"task"], type=WorkEntry).message == message(variables={"a": 1})


async def test_another_body_under_the_same_id_is_a_conflict(
    admission: Admission, reservations: Reservations, fake_redis: Any
) -> None:
    first = await accept(admission)
    assert isinstance(first, Accepted)
    assert await accept(admission, sha=OTHER) == Conflict(first.entry_id)
    assert await reservations.reserve(QUEUE, "t1", OTHER, 3) == Conflict(first.entry_id)
    assert await waiting(fake_redis) == ([b"t1"], b"1", 1)


async def test_a_full_queue_takes_nothing_but_knows_its_own(
    admission: Admission, reservations: Reservations, fake_redis: Any
) -> None:
    first = await accept(admission, limit=1)
    assert isinstance(first, Accepted)
    assert await accept(admission, "t2", limit=1) == Full(1, 1)
    assert await reservations.reserve(QUEUE, "t2", SHA, 1) == Full(1, 1)
    assert await accept(admission, limit=1) == Duplicate(first.entry_id)
    assert await waiting(fake_redis) == ([b"t1"], b"1", 1)


async def test_a_refusal_says_when_a_place_is_likely_free(admission: Admission, fake_redis: Any) -> None:
    """As fast as tasks start; never more than the longest wait that we tell."""
    await accept(admission, limit=1)
    seconds, _ = await fake_redis.time()
    await fake_redis.hset(NAMES.start_interval, mapping={"last": (seconds + 60) * 1000, "mean": 2500})
    assert await accept(admission, "t2", limit=1) == Full(1, 1, 2.5)
    await fake_redis.hset(NAMES.start_interval, "last", 0)
    assert await accept(admission, "t2", limit=1) == Full(1, 1, RETRY_AFTER_S_MAX)


async def test_the_size_that_an_operator_set_wins(admission: Admission, fake_redis: Any) -> None:
    await accept(admission, limit=1)
    await fake_redis.hset(NAMES.control, "maxSize", 2)
    assert isinstance(await accept(admission, "t2", limit=1), Accepted)
    assert await accept(admission, "t3", limit=9) == Full(2, 2)


@pytest.mark.parametrize(("paused", "told"), [("1", True), ("true", True), ("0", False), ("", False)])
async def test_a_paused_queue_accepts_and_says_so(
    admission: Admission, fake_redis: Any, paused: str, *, told: bool
) -> None:
    await fake_redis.hset(NAMES.control, "paused", paused)
    verdict = await accept(admission)
    assert isinstance(verdict, Accepted) and verdict.paused is told


async def test_a_promise_is_kept_by_its_message(
    admission: Admission, reservations: Reservations, fake_redis: Any
) -> None:
    """One place for both, though the queue filled up between them."""
    assert await reservations.reserve(QUEUE, "t1", SHA, 1) == Reserved(1)
    assert await reservations.reserve(QUEUE, "t1", SHA, 1) == Reserved(1)
    assert await waiting(fake_redis) == ([b"t1"], b"1", 0)
    verdict = await accept(admission, limit=1)
    assert isinstance(verdict, Accepted) and verdict.position == 1
    assert await waiting(fake_redis) == ([b"t1"], b"1", 1)
    assert await reservations.reserve(QUEUE, "t1", SHA, 1) == Duplicate(verdict.entry_id)


async def test_a_promise_of_another_body_is_a_conflict(reservations: Reservations) -> None:
    await reservations.reserve(QUEUE, "t1", SHA, 3)
    assert await reservations.reserve(QUEUE, "t1", OTHER, 3) == Conflict("")


async def test_a_delayed_message_takes_its_place_at_delivery(
    admission: Admission, reservations: Reservations, fake_redis: Any
) -> None:
    """Its body is remembered until the promise of a delay has run out too."""
    assert await reservations.reserve(QUEUE, "t1", SHA, 1, delay_s=3600) == Reserved(0)
    assert await waiting(fake_redis) == ([], None, 0)
    left_s = await fake_redis.ttl(keys.reservation(QUEUE, "t1"))
    assert left_s > 3600 + QueueSettings().promise_ttl_s - 5
    assert isinstance(await accept(admission, limit=1), Accepted)


async def test_a_refund_gives_the_place_back_once(reservations: Reservations, fake_redis: Any) -> None:
    await reservations.reserve(QUEUE, "t1", SHA, 3)
    await reservations.reserve(QUEUE, "t2", SHA, 3)
    assert await reservations.cancel(QUEUE, "t1")
    assert await reservations.cancel(QUEUE, "t1")
    assert await waiting(fake_redis) == ([b"t2"], b"1", 0)
    assert await reservations.reserve(QUEUE, "t1", OTHER, 3) == Reserved(2)


async def test_an_accepted_message_is_not_refunded(
    admission: Admission, reservations: Reservations, fake_redis: Any
) -> None:
    await accept(admission)
    assert not await reservations.cancel(QUEUE, "t1")
    assert await waiting(fake_redis) == ([b"t1"], b"1", 1)


async def test_a_promise_that_nobody_kept_runs_out(
    admission: Admission, reservations: Reservations, fake_redis: Any
) -> None:
    """What was accepted stays, however old."""
    await accept(admission, "t1")
    await reservations.reserve(QUEUE, "t2", SHA, 3)
    await fake_redis.zadd(NAMES.waiting, {"t1": 1, "t2": 2})
    assert await reservations.expire(QUEUE) == 1
    assert await reservations.expire(QUEUE) == 0
    assert await waiting(fake_redis) == ([b"t1"], b"1", 1)


async def test_an_old_promise_makes_room_for_a_new_one(reservations: Reservations, fake_redis: Any) -> None:
    await reservations.reserve(QUEUE, "old", SHA, 1)
    await fake_redis.zadd(NAMES.waiting, {"old": 1})
    assert await reservations.reserve(QUEUE, "t1", SHA, 1) == Reserved(1)
    assert await waiting(fake_redis) == ([b"t1"], b"1", 0)


async def test_the_queue_that_knows_a_task_is_found(admission: Admission, reservations: Reservations) -> None:
    assert await reservations.queue_of([QUEUE], "t1") is None
    await reservations.reserve("q_free_batch", "t1", SHA, 3)
    assert await reservations.queue_of([QUEUE, "q_free_batch"], "t1") == "q_free_batch"
    await accept(admission)
    assert await reservations.queue_of([QUEUE, "q_free_batch"], "t1") == QUEUE


async def test_a_counted_message_is_never_full(admission: Admission, fake_redis: Any) -> None:
    """Its producer did the INCR."""
    await fake_redis.set(NAMES.counter, 7)
    assert isinstance(await accept(admission, limit=1, counted=True), Accepted)
    assert await waiting(fake_redis) == ([b"t1"], b"7", 1)


async def test_a_dry_run_writes_nothing(admission: Admission, fake_redis: Any) -> None:
    assert await admission.accept(message(), SHA, 1, {}, dry_run=True) == Accepted("", 1)
    assert await fake_redis.keys("*") == []
    await accept(admission, limit=1)
    assert await admission.accept(message("t2"), SHA, 1, {}, dry_run=True) == Full(1, 1)


async def test_images_lie_beside_the_stream(admission: Admission, fake_redis: Any) -> None:
    """The entry carries a reference, the bytes an end of life."""
    picture = Picture("image/png", b"\x00\xffpng")
    sent = message(images=[ImageRef(file_key="images/x.jpg"), ImageRef(data="AAAA")])
    assert isinstance(await admission.accept(sent, SHA, 3, {1: picture}), Accepted)
    [(_, fields)] = await fake_redis.xrange(NAMES.tasks)
    images = msgspec.json.decode(fields[b"task"], type=WorkEntry).message.images or []
    assert images == [
        ImageRef(file_key="images/x.jpg"),
        ImageRef(mime_type="image/png", blob=blob_reference(QUEUE, "t1", 1)),
    ]
    assert await fake_redis.get(keys.blob(QUEUE, "t1", 1)) == picture.data
    assert await fake_redis.ttl(keys.blob(QUEUE, "t1", 1)) > 0


async def test_on_a_shelf_images_stay_only_with_an_accepted_message(scripts: Scripts, fake_redis: Any) -> None:
    staging = FakeShelf()
    admission = Admission(scripts, QueueSettings(), SystemClock(), staging)
    pictures = {0: Picture("image/png", b"x")}
    verdicts = [
        await admission.accept(message(name, images=[ImageRef(data="AAAA")]), SHA, 1, pictures) for name in ("t1", "t2")
    ]
    assert isinstance(verdicts[0], Accepted) and verdicts[1] == Full(1, 1)
    assert staging.laid == ["disk:t1:0"]
    assert await fake_redis.keys("*blob*") == []
