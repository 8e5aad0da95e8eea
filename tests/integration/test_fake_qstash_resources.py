"""Queues, flow control, schedules, dead letters, batches and URL groups of the fake QStash, by the Python client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from qstash import AsyncQStash
from qstash.errors import QStashError
from qstash.message import BatchJsonRequest, PublishResponse

from daemon.dev.fake_qstash import FakeQstash
from tests.integration.qstash_receiver import Receiver, call, official_client, receiving
from tests.waiting import wait_until


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
async def fake() -> AsyncIterator[FakeQstash]:
    async with FakeQstash(speed=0) as running:
        yield running


@pytest.fixture
async def client(fake: FakeQstash) -> AsyncIterator[AsyncQStash]:
    async with official_client(fake) as running:
        yield running


async def test_a_queue_delivers_in_order_through_retries_and_callbacks(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """The second message waits for the first one's retry, the third for the second one's callback."""
    receiver.fail(1)
    await client.message.enqueue(queue="q", url=receiver.url(), body="1", failure_callback=receiver.url("/f"))
    await client.message.enqueue(queue="q", url=receiver.url("/second"), body="2", callback=receiver.url("/c"))
    await client.message.enqueue(queue="q", url=receiver.url("/third"), body="3")
    await fake.at_rest()
    assert (await client.queue.get("q")).lag == 2
    await fake.advance(60)
    assert [seen.path for seen in receiver.calls] == ["/hook", "/hook", "/second", "/c", "/third"]
    assert receiver.inside_max == 1


async def test_a_queued_message_waits_for_the_callback_of_the_one_before(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """A callback that fails once holds the queue until its own retry."""
    receiver.answers.extend([(200, {}, b""), (500, {}, b"")])
    await client.message.enqueue(queue="q", url=receiver.url("/1"), body="1", callback=receiver.url("/c"))
    await client.message.enqueue(queue="q", url=receiver.url("/2"), body="2")
    await fake.at_rest()
    assert [seen.path for seen in receiver.calls] == ["/1", "/c"]
    await fake.advance(13)
    assert [seen.path for seen in receiver.calls] == ["/1", "/c", "/c", "/2"]


async def test_a_queue_has_parallelism_and_a_pause(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """Nothing leaves a paused queue; afterwards so many at once as it was given."""
    await client.queue.upsert("q", parallelism=2)
    await client.queue.pause("q")
    for number in range(5):
        await client.message.enqueue(queue="q", url=receiver.url(), body=f"{number}")
    await fake.at_rest()
    queue = await client.queue.get("q")
    assert (queue.paused, queue.parallelism, queue.lag, receiver.calls) == (True, 2, 5, [])
    receiver.open.clear()
    await client.queue.resume("q")
    await wait_until(lambda: receiver.inside == 2, description="two deliveries in flight")
    receiver.open.set()
    await fake.settled()
    assert sorted(receiver.bodies()) == [b"0", b"1", b"2", b"3", b"4"]
    assert receiver.inside_max == 2
    assert [listed.name for listed in await client.queue.list()] == ["q"]


async def test_deleting_a_queue_drops_what_waits_in_it(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """Nothing of it is sent any more, and it is gone."""
    await client.queue.upsert("q", paused=True)
    await client.message.enqueue(queue="q", url=receiver.url(), body="x")
    await fake.at_rest()
    await client.queue.delete("q")
    await fake.settled()
    assert receiver.calls == []
    for method in (client.queue.get, client.queue.pause, client.queue.delete):
        with pytest.raises(QStashError, match="404"):
            await method("q")


async def test_a_flow_control_key_limits_how_many_are_in_flight(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """At most `parallelism` at once over all messages of the key; nothing is dropped."""
    receiver.open.clear()
    for number in range(6):
        await client.message.publish(url=receiver.url(), body=f"{number}", flow_control={"key": "k", "parallelism": 2})
    await wait_until(lambda: receiver.inside == 2, description="two deliveries in flight")
    seen = await client.flow_control.get("k")
    assert (seen.parallelism_max, seen.parallelism_count, seen.wait_list_size) == (2, 2, 4)
    assert (await client.flow_control.get_global_parallelism()).parallelism_count == 2
    receiver.open.set()
    await fake.settled()
    assert (len(receiver.calls), receiver.inside_max) == (6, 2)


async def test_a_flow_control_key_limits_the_rate(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """`rate` in each `period`, in the order of publishing; a pause holds all; a reset opens a new period."""
    for number in range(7):
        await client.message.publish(
            url=receiver.url(), body=f"{number}", flow_control={"key": "k", "rate": 2, "period": "1m"}
        )
    await fake.advance(59)
    assert sorted(receiver.bodies()) == [b"0", b"1"]
    await fake.advance(1)
    assert len(receiver.calls) == 4
    await client.flow_control.reset_rate("k")
    await fake.at_rest()
    assert len(receiver.calls) == 6
    await client.flow_control.pause("k")
    await fake.advance(600)
    assert len(receiver.calls) == 6
    await client.flow_control.resume("k")
    await fake.settled()
    assert len(receiver.calls) == 7
    with pytest.raises(QStashError, match="404"):
        await client.flow_control.get("other")


async def test_a_schedule_fires_by_its_cron(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """Every minute one message with the schedule's id; paused, it is silent; deleted, it is gone."""
    schedule_id = await client.schedule.create_json(
        destination=receiver.url(), cron="* * * * *", body={"n": 1}, schedule_id="every-minute", label="l", retries=1
    )
    assert schedule_id == "every-minute"
    await fake.advance(180)
    assert receiver.bodies() == [b'{"n": 1}'] * 3
    assert {seen.headers["Upstash-Schedule-Id"] for seen in receiver.calls} == {schedule_id}
    assert len({seen.headers["Upstash-Message-Id"] for seen in receiver.calls}) == 3
    [shown] = await client.schedule.list()
    assert (shown.cron, shown.paused, shown.retries, shown.label) == ("* * * * *", False, 1, "l")
    await client.schedule.pause(schedule_id)
    await fake.advance(180)
    assert len(receiver.calls) == 3 and (await client.schedule.get(schedule_id)).paused
    await client.schedule.resume(schedule_id)
    await fake.advance(60)
    assert len(receiver.calls) == 4
    await client.schedule.delete(schedule_id)
    await fake.advance(60)
    assert len(receiver.calls) == 4
    with pytest.raises(QStashError, match="404"):
        await client.schedule.get(schedule_id)


async def test_a_schedule_can_be_triggered(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """By a test, at any time, through its queue too."""
    schedule_id = await client.schedule.create(
        destination=receiver.url(), cron="0 0 1 1 *", body="x", queue="nightly", delay=5
    )
    status, answer = await call(fake, f"/_fake/schedules/{schedule_id}/trigger")
    await fake.advance(5)
    assert (status, answer["messageId"]) == (200, receiver.calls[0].headers["Upstash-Message-Id"])
    assert [queue.name for queue in await client.queue.list()] == ["nightly"]
    assert (await call(fake, "/_fake/schedules/none/trigger"))[0] == 404


async def test_publishing_with_a_cron_header_makes_a_schedule(fake: FakeQstash, receiver: Receiver) -> None:
    """The older form of the same; nonsense is refused."""
    status, answer = await call(
        fake, f"/v2/publish/{receiver.url()}", b"x", headers={"Upstash-Cron": "CRON_TZ=Asia/Shanghai 0 9 * * 1-5"}
    )
    assert status == 200 and answer["scheduleId"] in fake.schedules.all
    status, answer = await call(fake, f"/v2/schedules/{receiver.url()}", b"x", headers={"Upstash-Cron": "often"})
    assert status == 400 and "cron" in answer["error"].lower()


async def test_dead_letters_are_listed_retried_and_deleted(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """A retry is a new message with the same content; options of the call win; the dead letter is gone."""
    receiver.fail(3, 400)
    for number in range(3):
        await client.message.publish_json(
            url=receiver.url(),
            body={"n": number},
            headers={"X-A": "1"},
            retries=0,
            label=f"l{number}",
            delay=number + 1,
            deduplication_id=f"d{number}",
        )
    await fake.advance(3)
    listed = await client.dlq.list(count=2)
    more = await client.dlq.list(count=2, cursor=listed.cursor)
    assert [letter.label for letter in (*listed.messages, *more.messages)] == ["l0", "l1", "l2"]
    assert more.cursor is None
    [chosen] = (await client.dlq.list(filter={"label": "l1"})).messages
    assert (await client.dlq.get(chosen.dlq_id)).message_id == chosen.message_id
    receiver.fail(1)
    status, answer = await call(fake, f"/v2/dlq/retry/{chosen.dlq_id}", headers={"Upstash-Retries": "1"})
    await fake.advance(20)
    again = receiver.calls[-1]
    assert status == 200 and answer["messageId"] != chosen.message_id
    assert again.headers["Upstash-Message-Id"] == answer["messageId"]
    assert (again.body, again.headers["X-A"], again.headers["Upstash-Retried"]) == (b'{"n": 1}', "1", "1")
    rest = [letter.dlq_id for letter in (await client.dlq.list()).messages]
    assert len(rest) == 2
    await client.dlq.delete(rest[0])
    assert await client.dlq.delete_many(rest) == 1
    for path in ("/v2/dlq/none", "/v2/dlq/retry/none"):
        assert (await call(fake, path, method="POST" if "retry" in path else "GET"))[0] == 404
    assert (await call(fake, "/v2/dlq/none", method="DELETE"))[0] == 404


async def test_a_batch_publishes_and_enqueues(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """One answer each; a malformed message refuses all of it."""
    wanted: list[BatchJsonRequest] = [
        {"url": receiver.url(), "body": {"n": 1}, "headers": {"X-A": "1"}},
        {"url": receiver.url(), "body": {"n": 2}, "queue": "q", "deduplication_id": "d"},
        {"url": receiver.url(), "body": {"n": 3}, "queue": "q", "deduplication_id": "d"},
    ]
    answers = await client.message.batch_json(wanted)
    await fake.settled()
    assert [answer.deduplicated for answer in answers if not isinstance(answer, list)] == [False, False, True]
    assert sorted(receiver.bodies()) == [b'{"n": 1}', b'{"n": 2}']
    with pytest.raises(QStashError, match="loopback"):
        await client.message.batch_json([wanted[0], {"url": "https://example.com"}])
    for body in (b"{}", b"[1]", b"no"):
        assert (await call(fake, "/v2/batch", body))[0] == 400
    assert len(receiver.calls) == 2


async def test_a_url_group_means_one_message_for_each_endpoint(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """With its name in a header; ids are apart, and so are duplicates."""
    await client.url_group.upsert_endpoints(
        "group", [{"url": receiver.url("/a"), "name": "a"}, {"url": receiver.url("/b")}]
    )
    sent = await client.message.publish(url_group="group", body="x", deduplication_id="d")
    again = await client.message.publish(url_group="group", body="x", deduplication_id="d")
    await fake.settled()
    assert isinstance(sent, list) and isinstance(again, list)
    assert [answer.url for answer in sent] == [receiver.url("/a"), receiver.url("/b")]
    assert [answer.deduplicated for answer in again] == [True, True]
    assert sorted(seen.path for seen in receiver.calls) == ["/a", "/b"]
    assert {seen.headers["Upstash-Topic-Name"] for seen in receiver.calls} == {"group"}
    await client.url_group.remove_endpoints("group", [{"name": "a"}])
    assert [endpoint.url for endpoint in (await client.url_group.get("group")).endpoints] == [receiver.url("/b")]
    assert len(await client.url_group.list()) == 1
    await client.url_group.delete("group")
    with pytest.raises(QStashError, match="404"):
        await client.message.publish(url_group="group", body="x")
    with pytest.raises(QStashError, match="loopback"):
        await client.url_group.upsert_endpoints("evil", [{"url": "https://example.com"}])


async def test_the_log_tells_a_message_s_life(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """Newest first, with times on the fake's clock, filtered and paged as the client asks."""
    receiver.fail(1)
    sent = await client.message.publish(url=receiver.url(), body="x", label="l")
    await fake.advance(20)
    assert isinstance(sent, PublishResponse)
    page = await client.log.list(count=4, filter={"label": "l"})
    rest = await client.log.list(cursor=page.cursor, filter={"label": "l"})
    states = [event.state.value for event in (*page.logs, *rest.logs)]
    assert states == ["DELIVERED", "ACTIVE", "RETRY", "ERROR", "ACTIVE", "CREATED"]
    assert page.logs[0].time - rest.logs[-1].time in (12_182, 12_183)  # rounded twice
    assert page.logs[3].response_status == 500
    assert (await call(fake, "/v2/events?count=x", method="GET"))[0] == 400


async def test_a_queue_needs_sensible_numbers(fake: FakeQstash) -> None:
    """400 with a reason."""
    bodies: list[object] = [{}, {"queueName": "q", "parallelism": 0}, {"queueName": "q", "parallelism": "2"}, []]
    for body in bodies:
        assert (await call(fake, "/v2/queues", json.dumps(body).encode()))[0] == 400
    assert fake.engine.queues == {}
    assert (await call(fake, "/v2/events?fromDate=x", method="GET"))[0] == 400
    assert (await call(fake, "/v2/topics/g/endpoints", b"{}"))[0] == 400
    assert (await call(fake, "/v2/schedules/none", method="DELETE"))[0] == 404


async def test_a_schedule_that_cannot_publish_says_so_and_goes_on(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """Its URL group is gone: an error on the schedule, and the next minute it tries again."""
    await client.url_group.upsert_endpoints("group", [{"url": receiver.url()}])
    schedule_id = await client.schedule.create(destination="group", cron="* * * * *", body="x", schedule_id="s")
    await client.url_group.delete("group")
    await fake.advance(60)
    assert "URL group" in ((await client.schedule.get(schedule_id)).error or "")
    await client.url_group.upsert_endpoints("group", [{"url": receiver.url()}])
    await fake.advance(60)
    assert (await client.schedule.get(schedule_id)).error is None
    assert len(receiver.calls) == 1
