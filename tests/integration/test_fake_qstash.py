"""Publishing and delivery by the fake QStash, with the official Python client as the publisher and judge."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import AsyncIterator

import pytest
from qstash import AsyncQStash, QStash
from qstash import Receiver as Judge
from qstash.errors import QStashError, SignatureError
from qstash.message import PublishResponse

from daemon.dev.fake_qstash import FakeQstash, State
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


async def test_a_percent_encoded_destination_is_decoded_once(fake: FakeQstash, receiver: Receiver) -> None:
    """`/v2/publish/http%3A%2F%2F…` means the same as the bare URL."""
    encoded = receiver.url("/a%20b").replace("%", "%25").replace(":", "%3A").replace("/", "%2F")
    status, _ = await call(fake, f"/v2/publish/{encoded}", b"x")
    await fake.settled()
    assert status == 200
    assert [seen.path for seen in receiver.calls] == ["/a%20b"]


async def test_options_may_come_as_query_parameters(fake: FakeQstash, receiver: Receiver) -> None:
    """As webhooks need it: token and options in the query, all headers forwarded, the rest of the query kept."""
    path = f"/v2/publish/{receiver.url()}?a=b%20c&qstash_token={fake.token}&upstash-retries=0"
    receiver.fail(1)
    status, _ = await call(fake, path, b"x", headers={"Upstash-Header-Forward": "true", "X-Hub": "1"}, token="")
    await fake.settled()
    [seen] = receiver.calls
    assert status == 200
    assert seen.path == "/hook?a=b+c"
    assert seen.headers["X-Hub"] == "1"
    assert seen.headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert fake.token not in str(seen)
    assert len(fake.dead) == 1


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
    [dead] = (await client.dlq.list()).messages
    assert (dead.response_status, dead.response_body, dead.max_retries) == (500, "no", 3)


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
    assert [event.state.value for event in (await client.log.list(filter={"url": receiver.url()})).logs][-4:] == [
        "FAILED",
        "ERROR",
        "ACTIVE",
        "CREATED",
    ]


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
        callback=receiver.url("/called"),
    )
    await fake.settled()
    assert isinstance(sent, PublishResponse)
    calls = {seen.path: seen for seen in receiver.calls}
    failed = calls["/failed"]
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
    assert "dlqId" not in json.loads(calls["/called"].body)


async def test_a_callback_follows_every_attempt(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """With the status and the count of retries so far."""
    receiver.fail(1)
    await client.message.publish(url=receiver.url(), body="x", callback=receiver.url("/called"))
    await fake.advance(20)
    told = [json.loads(body) for body in receiver.bodies("/called")]
    assert [(item["status"], item["retried"]) for item in told] == [(500, 0), (200, 1)]


async def test_delay_and_not_before_hold_a_message_back(receiver: Receiver) -> None:
    """Not a second too early; not-before is an instant of the publisher's clock."""
    async with FakeQstash(speed=0, wall=lambda: 2_000_000_000) as fake, official_client(fake) as client:
        await check_delays(fake, client, receiver)


async def check_delays(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """The times of three messages."""
    await client.message.publish(url=receiver.url(), body="delayed", delay="1m30s")
    await client.message.publish(url=receiver.url(), body="later", not_before=2_000_000_300, delay="1s")
    await client.message.publish(url=receiver.url(), body="past", not_before=1)
    await fake.advance(89)
    assert receiver.bodies() == [b"past"]
    await fake.advance(1)
    assert receiver.bodies() == [b"past", b"delayed"]
    await fake.advance(220)
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


async def test_the_content_can_be_the_identity(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """Same URL, body and forwarded headers: one message."""
    for body, header in (("x", "1"), ("x", "1"), ("y", "1"), ("x", "2")):
        await client.message.publish(
            url=receiver.url(), body=body, headers={"X-H": header}, content_based_deduplication=True
        )
    await fake.settled()
    assert len(receiver.calls) == 3


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


async def test_messages_can_be_seen_and_cancelled_while_they_wait(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """One by one, several, all; a cancelled message is never sent."""
    ids = []
    for number in range(4):
        sent = await client.message.publish(url=receiver.url(), body=f"{number}", delay=60, label="l")
        assert isinstance(sent, PublishResponse)
        ids.append(sent.message_id)
    seen = await client.message.get(ids[0])
    assert (seen.body, seen.label, seen.not_before - seen.created_at) == ("0", "l", 60_000)
    await client.message.cancel(ids[0])
    assert await client.message.cancel_many(ids[1:3]) == 2
    assert await client.message.cancel_all() == 1
    await fake.settled()
    with pytest.raises(QStashError, match="404"):
        await client.message.cancel(ids[0])
    with pytest.raises(QStashError, match="404"):
        await client.message.get(ids[0])
    states = [event.state.value for event in (await client.log.list(filter={"message_id": ids[0]})).logs]
    assert states == [State.CANCELED, State.CANCEL_REQUESTED, State.CREATED]
    assert receiver.calls == []


async def test_a_message_in_flight_is_not_retried_after_a_cancel(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """It is too late for this attempt; a success stays one, a failure ends it."""
    receiver.open.clear()
    receiver.fail(1)
    for path in ("/fails", "/works"):
        await client.message.publish(url=receiver.url(path), body="x")
        await wait_until(lambda path=path: path in {s.path for s in receiver.calls}, description="in flight")
    assert await client.message.cancel_all() == 2
    receiver.open.set()
    await fake.settled()
    ends = {seen.url: seen.state.value for seen in reversed((await client.log.list()).logs)}
    assert ends == {receiver.url("/fails"): "CANCELED", receiver.url("/works"): "DELIVERED"}
    assert len(receiver.calls) == 2 and fake.dead == []


async def test_an_expression_that_loses_its_value_gives_way_to_the_backoff(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """No retry is lost by a division by zero."""
    receiver.fail(2)
    await client.message.publish(url=receiver.url(), body="x", retry_delay="1000 / (1 - retried)")
    await fake.advance(200)
    assert gaps(fake) == [1.0, 148.41]


async def test_a_long_answer_is_cut(receiver: Receiver) -> None:
    """At the size of a message."""
    async with FakeQstash(speed=0, message_bytes_max=1000) as fake, official_client(fake) as client:
        receiver.answers.append((500, {}, b"y" * 5000))
        await client.message.publish(url=receiver.url(), body="x", retries=0)
        await fake.settled()
        assert fake.dead[0].answer.body == b"y" * 1000


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
        ("nobody", {}, "URL group"),
        ("http://127.0.0.1:1/", {"Upstash-Failure-Callback": "http://example.com/"}, "loopback"),
        ("http://127.0.0.1:1/", {"Upstash-Retries": "-1"}, "retries"),
        ("http://127.0.0.1:1/", {"Upstash-Delay": "soon"}, "duration"),
        ("http://127.0.0.1:1/", {"Upstash-Retry-Delay": "open('x')"}, "not allowed"),
        ("http://127.0.0.1:1/", {"Upstash-Method": "TRACE"}, "method"),
        ("http://127.0.0.1:1/", {"Upstash-Callback-Retries": "many"}, "retries"),
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


async def test_keys_roll(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """After a roll the former next key signs, and a receiver that knows the old pair still accepts."""
    old = await client.signing_key.get()
    new = await client.signing_key.rotate()
    assert (old.current, old.next) != (new.current, new.next) and new.current == old.next
    await client.message.publish(url=receiver.url(), body="x")
    await fake.settled()
    Judge(old.current, old.next).verify(signature=receiver.calls[0].headers["Upstash-Signature"], body="x")
    assert (fake.current_key, fake.next_key) == (new.current, new.next)
