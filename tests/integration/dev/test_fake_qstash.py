"""Publishing and delivery by the fake QStash, with the official Python client as the publisher and judge."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time

import pytest
from qstash import AsyncQStash, QStash
from qstash import Receiver as Judge
from qstash.errors import QStashError, SignatureError
from qstash.message import PublishResponse

from daemon.dev.fake_qstash import FakeQstash
from daemon.dev.fake_qstash.sender import MESSAGE_BYTES_MAX
from tests.integration.dev.qstash_receiver import Receiver, call, official_client
from tests.waiting import wait_until


def gaps(fake: FakeQstash) -> list[float]:
    """Seconds between the attempts."""
    at = [delivery.at for delivery in fake.delivered]
    return [round(later - earlier, 2) for earlier, later in itertools.pairwise(at)]


async def test_a_published_message_arrives_as_qstash_sends_it(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """Body byte for byte, own and forwarded headers, method, and a signature the official Receiver accepts."""
    url = receiver.url("/a%20b/%C3%BC?x=1&y=%2F")
    sent = await client.message.publish_json(url=url, body={"né": "✓"}, headers={"X-Task": "t1"}, method="PUT")
    await fake.settled()
    [seen] = receiver.calls
    assert isinstance(sent, PublishResponse) and not sent.deduplicated
    assert (seen.method, seen.path, json.loads(seen.body)) == ("PUT", "/a%20b/%C3%BC?x=1&y=%2F", {"né": "✓"})
    assert seen.headers["User-Agent"] == "Upstash-QStash"
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.headers["X-Task"] == "t1"
    assert seen.headers["Upstash-Message-Id"] == sent.message_id
    assert seen.headers["Upstash-Retried"] == "0"
    assert seen.headers["Upstash-Caller-Ip"] == "127.0.0.1"
    assert seen.headers["upstash-region"] == "US-EAST-1"
    assert not any(name.lower().startswith("upstash-forward") for name in seen.headers)
    judge = Judge(fake.current_key, fake.next_key)
    judge.verify(signature=seen.headers["Upstash-Signature"], body=seen.body.decode(), url=url)
    with pytest.raises(SignatureError):
        judge.verify(signature=seen.headers["Upstash-Signature"], body=seen.body.decode() + " ", url=url)


async def test_bytes_that_are_not_text_arrive_unchanged(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """No decoding on the way."""
    body = bytes(range(256))
    await client.message.publish(url=receiver.url(), body=body, content_type="application/octet-stream")
    await fake.settled()
    assert receiver.bodies() == [body]


async def test_failures_are_retried_at_the_documented_times_then_buried(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """Four attempts, after 12 s, 2 m 28 s and 30 m 8 s, with the same id and a token of its own each; then the DLQ."""
    receiver.fail(4)
    await client.message.publish(url=receiver.url(), body="x")
    await fake.advance(3600)
    assert gaps(fake) == [12.18, 148.41, 1808.04]
    assert [seen.headers["Upstash-Retried"] for seen in receiver.calls] == ["0", "1", "2", "3"]
    assert len({seen.headers["Upstash-Message-Id"] for seen in receiver.calls}) == 1
    assert len({seen.headers["Upstash-Signature"] for seen in receiver.calls}) == 4
    [dead] = fake.dead
    assert (dead.answer.status, dead.answer.body, dead.message.retried) == (500, b"no", 3)


async def test_a_running_clock_can_be_sped_up(receiver: Receiver) -> None:
    """33 minutes of retries in a moment."""
    receiver.fail(3)
    began = time.monotonic()
    async with FakeQstash(speed=10_000) as fake:
        client = QStash(fake.token, retry=False, base_url=fake.url)
        await asyncio.to_thread(client.message.publish, url=receiver.url(), body="x")
        client.http._client.close()
        await fake.settled()
        assert [delivery.answer.status for delivery in fake.delivered] == [500, 500, 500, 200]
        assert fake.delivered[-1].at - fake.delivered[0].at > 1960
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1m5s"}, 65.0),
        ({"X-RateLimit-Reset-Tokens": "250ms"}, 0.25),
        ({"Retry-After": "86401"}, 12.18),
        ({"Retry-After": "soon"}, 12.18),
    ],
)
async def test_a_receiver_can_name_the_time_of_the_retry(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver, answer: dict[str, str], expected: float
) -> None:
    """Retry-After and rate-limit resets win over the backoff; more than a day, or nonsense, does not."""
    receiver.fail(1, 429, answer)
    await client.message.publish(url=receiver.url(), body="x")
    await fake.advance(100)
    assert gaps(fake) == [expected]


async def test_retries_and_their_delay_can_be_chosen(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """`Upstash-Retries` and an expression in milliseconds of `retried`."""
    receiver.fail(9)
    await client.message.publish(
        url=receiver.url(), body="x", retries=4, retry_delay="min(3000, pow(2, retried) * 1000)"
    )
    await fake.advance(100)
    assert gaps(fake) == [1.0, 2.0, 3.0, 3.0]


async def test_489_with_the_header_ends_it_at_once(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """No retry, a dead letter, and a failure callback; 489 alone is an ordinary failure."""
    receiver.fail(1, 489, {"Upstash-NonRetryable-Error": "true"})
    await client.message.publish(url=receiver.url(), body="x", failure_callback=receiver.url("/failed"))
    await fake.settled()
    assert [seen.path for seen in receiver.calls] == ["/hook", "/failed"]
    receiver.fail(1, 489)
    await client.message.publish(url=receiver.url(), body="y", retries=1)
    await fake.advance(60)
    assert receiver.bodies() == [b"x", b"y", b"y"]
    assert [letter.answer.status for letter in fake.dead] == [489]


async def test_a_failure_callback_tells_all_that_is_documented(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """Signed like any message, its own options by prefix, bodies in base64, dlqId of the dead letter."""
    receiver.answers.append((503, {"X-Why": "full"}, b"\xffno"))
    sent = await client.message.publish(
        url=receiver.url(),
        body=b"\x00\x01",
        retries=0,
        headers={"X-A": "1"},
        failure_callback=receiver.url("/failed"),
        failure_callback_headers={"Forward-X-B": "2", "Method": "PUT"},
    )
    await fake.settled()
    assert isinstance(sent, PublishResponse)
    failed = receiver.calls[-1]
    assert failed.path == "/failed"
    Judge(fake.current_key, fake.next_key).verify(
        signature=failed.headers["Upstash-Signature"], body=failed.body.decode(), url=receiver.url("/failed")
    )
    assert (failed.method, failed.headers["X-B"]) == ("PUT", "2")
    told = json.loads(failed.body)
    created = fake.dead[0].message.created_at
    assert told.pop("header")["X-Why"] == ["full"]
    assert told == {
        "status": 503,
        "body": base64.b64encode(b"\xffno").decode(),
        "retried": 0,
        "maxRetries": 0,
        "dlqId": fake.dead[0].id,
        "sourceMessageId": sent.message_id,
        "url": receiver.url(),
        "method": "POST",
        "sourceHeader": {"X-A": ["1"]},
        "sourceBody": "AAE=",
        "notBefore": round(created * 1000),
        "createdAt": round(created * 1000),
        "callerIP": "127.0.0.1",
    }


async def test_delay_and_not_before_hold_a_message_back(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """Not a second too early; not-before is an instant of the publisher's clock."""
    in_five_minutes = int(time.time()) + 300  # noqa: TID251 - of the world outside
    await client.message.publish(url=receiver.url(), body="delayed", delay="1m30s")
    await client.message.publish(url=receiver.url(), body="later", not_before=in_five_minutes, delay="1s")
    await client.message.publish(url=receiver.url(), body="past", not_before=1)
    await fake.advance(89)
    assert receiver.bodies() == [b"past"]
    await fake.advance(1)
    assert receiver.bodies() == [b"past", b"delayed"]
    await fake.advance(200)
    assert receiver.bodies() == [b"past", b"delayed"]
    await fake.advance(10)
    assert receiver.bodies() == [b"past", b"delayed", b"later"]


async def test_a_second_message_with_the_same_id_is_dropped_for_ten_minutes(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """202 with the first message's id; after the window it is a new message."""

    async def publish() -> PublishResponse:
        sent = await client.message.publish(url=receiver.url(), body="x", deduplication_id="d1")
        assert isinstance(sent, PublishResponse)
        return sent

    first = await publish()
    await fake.advance(599)
    second = await publish()
    await fake.advance(1)
    third = await publish()
    await fake.settled()
    assert (second.message_id, second.deduplicated) == (first.message_id, True)
    assert third.message_id != first.message_id and not third.deduplicated
    assert len(receiver.calls) == 2


async def test_a_duplicate_is_answered_with_202(fake: FakeQstash, receiver: Receiver) -> None:
    """The message before it with 200."""
    headers = {"Upstash-Deduplication-Id": "d1"}
    answers = [await call(fake, f"/v2/publish/{receiver.url()}", b"x", headers=headers) for _ in range(2)]
    assert [status for status, _ in answers] == [200, 202]
    assert answers[1][1] == {"messageId": answers[0][1]["messageId"], "deduplicated": True}


async def test_no_answer_in_time_is_a_failure(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """`Upstash-Timeout` counts real time, whatever the fake's clock does."""
    receiver.open.clear()
    await client.message.publish(url=receiver.url(), body="x", timeout="80ms", retries=0)
    await fake.settled()
    assert fake.dead[0].answer.status == 0
    assert fake.dead[0].answer.error == "no answer within 0.08 s"


async def test_a_redirect_and_a_dead_port_are_failures(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """Nothing is followed; a refused connection does not break the fake."""
    receiver.fail(1, 307, {"Location": receiver.url("/elsewhere")})
    await client.message.publish(url=receiver.url(), body="x", retries=0)
    await client.message.publish(url="http://127.0.0.1:1/", body="x", retries=0)
    await fake.settled()
    assert sorted(letter.answer.status for letter in fake.dead) == [0, 307]
    assert len(receiver.calls) == 1


async def test_an_expression_that_loses_its_value_gives_way_to_the_backoff(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """No retry is lost by a division by zero."""
    receiver.fail(2)
    await client.message.publish(url=receiver.url(), body="x", retry_delay="1000 / (1 - retried)")
    await fake.advance(200)
    assert gaps(fake) == [1.0, 148.41]


async def test_a_long_answer_is_cut(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """At the size of a message."""
    receiver.answers.append((500, {}, b"y" * (MESSAGE_BYTES_MAX + 5000)))
    await client.message.publish(url=receiver.url(), body="x", retries=0)
    await fake.settled()
    assert len(fake.dead[0].answer.body) == MESSAGE_BYTES_MAX


async def test_a_fault_inside_is_not_hidden(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the end is told that the fake is broken."""
    monkeypatch.setattr(fake.sender, "send", lambda _: 1 / 0)
    await client.message.publish(url=receiver.url(), body="x")
    with pytest.raises(RuntimeError, match="broken"):
        await fake.settled()


async def test_a_taken_port_is_an_error(fake: FakeQstash) -> None:
    """And nothing stays open."""
    with pytest.raises(OSError, match="in use"):
        async with FakeQstash(port=int(fake.url.rpartition(":")[2])):
            pass


async def test_only_the_token_opens(fake: FakeQstash, receiver: Receiver) -> None:
    """401 for a wrong one, and nothing is sent."""
    async with official_client(fake, "wrong") as stranger:
        with pytest.raises(QStashError, match="401"):
            await stranger.message.publish(url=receiver.url(), body="x")
    assert not fake.engine.live


@pytest.mark.parametrize(
    ("url", "headers", "complaint"),
    [
        ("https://example.com/hook", {}, "loopback"),
        ("http://10.0.0.1/hook", {}, "loopback"),
        ("ftp://127.0.0.1/hook", {}, "http"),
        ("nobody", {}, "http"),
        ("http://127.0.0.1:1/", {"Upstash-Failure-Callback": "http://example.com/"}, "loopback"),
        ("http://127.0.0.1:1/", {"Upstash-Retries": "-1"}, "retries"),
        ("http://127.0.0.1:1/", {"Upstash-Delay": "soon"}, "duration"),
        ("http://127.0.0.1:1/", {"Upstash-Retry-Delay": "open('x')"}, "not allowed"),
        ("http://127.0.0.1:1/", {"Upstash-Method": "TRACE"}, "method"),
        ("http://127.0.0.1:1/", {"Upstash-Failure-Callback-Retries": "many"}, "retries"),
        ("http://127.0.0.1:1/", {"Upstash-Callback": "http://127.0.0.1:1/"}, "does not do that"),
        ("http://127.0.0.1:1/", {"Upstash-Cron": "* * * * *"}, "does not do that"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_a_reason(
    fake: FakeQstash, url: str, headers: dict[str, str], complaint: str
) -> None:
    """4xx and a sentence; strangers on the network are never called."""
    status, answer = await call(fake, f"/v2/publish/{url}", b"x", headers=headers)
    assert 400 <= status < 500
    assert complaint in answer["error"]
    assert not fake.engine.live


async def test_a_body_over_the_limit_is_refused(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """1 MiB is carried, a byte more is not."""
    await client.message.publish(url=receiver.url(), body=b"x" * 1024 * 1024)
    await fake.settled()
    assert len(receiver.calls[0].body) == 1024 * 1024
    with pytest.raises(QStashError, match="413"):
        await client.message.publish(url=receiver.url(), body=b"x" * (1024 * 1024 + 1))


async def test_a_queue_delivers_in_order_and_one_at_a_time(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """The second message waits for the first one's retry."""
    receiver.fail(1)
    for path in ("/first", "/second", "/third"):
        await client.message.enqueue(queue="q", url=receiver.url(path), body="x")
    await fake.at_rest()
    assert [seen.path for seen in receiver.calls] == ["/first"]
    await fake.advance(60)
    assert [seen.path for seen in receiver.calls] == ["/first", "/first", "/second", "/third"]
    assert receiver.inside_max == 1


async def test_a_flow_control_key_limits_how_many_are_in_flight(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """At most `parallelism` at once over all messages of the key; nothing is dropped."""
    receiver.open.clear()
    for number in range(6):
        await client.message.publish(url=receiver.url(), body=f"{number}", flow_control={"key": "k", "parallelism": 2})
    await wait_until(lambda: receiver.inside == 2, description="two deliveries in flight")
    receiver.open.set()
    await fake.settled()
    assert (len(receiver.calls), receiver.inside_max) == (6, 2)


async def test_a_flow_control_key_limits_the_rate(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """`rate` in each `period`, in the order of publishing."""
    for number in range(5):
        await client.message.publish(
            url=receiver.url(), body=f"{number}", flow_control={"key": "k", "rate": 2, "period": "1m"}
        )
    await fake.advance(59)
    assert sorted(receiver.bodies()) == [b"0", b"1"]
    await fake.advance(1)
    assert len(receiver.calls) == 4
    await fake.advance(60)
    assert len(receiver.calls) == 5


@pytest.mark.parametrize("path", ["/v2/schedules/http://127.0.0.1:1/", "/v2/batch", "/v2/queues", "/nowhere"])
async def test_what_it_does_not_do_is_not_found(fake: FakeQstash, path: str) -> None:
    assert (await call(fake, path))[0] == 404
