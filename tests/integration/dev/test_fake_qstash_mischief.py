"""What the fake QStash does wrong on purpose, its bounds, and the fake as a program of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest
from qstash import AsyncQStash
from qstash import Receiver as Judge
from qstash.errors import QStashError, SignatureError

from daemon.dev.fake_qstash import FakeQstash
from daemon.dev.fake_qstash.__main__ import main
from tests.integration.dev.qstash_receiver import Receiver, official_client
from tests.waiting import wait_until


def refused_by_judge(fake: FakeQstash, receiver: Receiver, number: int) -> bool:
    """Whether the official Receiver refuses the token of that call."""
    seen = receiver.calls[number]
    try:
        Judge(fake.current_key, fake.next_key).verify(
            signature=seen.headers["Upstash-Signature"], body=seen.body.decode(), url=receiver.url(seen.path)
        )
    except SignatureError:
        return True
    return False


async def test_a_message_can_come_again_after_a_2xx(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """At least once means this: same id, same body, a fresh token."""
    fake.misbehave("twice=2")
    await client.message.publish(url=receiver.url(), body="x")
    await fake.settled()
    assert receiver.bodies() == [b"x"] * 3
    assert len({seen.headers["Upstash-Message-Id"] for seen in receiver.calls}) == 1
    assert len({seen.headers["Upstash-Signature"] for seen in receiver.calls}) == 3


async def test_copies_can_come_at_the_same_moment(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """Two in flight at once, for races in the receiver."""
    receiver.open.clear()
    fake.misbehave("together", messages=1)
    await client.message.publish(url=receiver.url(), body="x")
    await wait_until(lambda: receiver.inside == 2, description="both copies in flight")
    receiver.open.set()
    await fake.settled()
    assert receiver.bodies() == [b"x", b"x"]


async def test_a_message_can_be_late(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """By so much, and by a header of its own, which both clients can set; the header is not passed on."""
    await client.message.publish(url=receiver.url(), body="x", headers={"Upstash-Fake-Mischief": "late=30s"})
    await fake.advance(29)
    assert receiver.calls == []
    await fake.advance(1)
    assert receiver.bodies() == [b"x"]
    assert not any("mischief" in name.lower() for name in receiver.calls[0].headers)


async def test_messages_can_change_places(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """The first waits until a later one to the same URL has ended; alone it goes after a minute."""
    fake.misbehave("out-of-order", messages=1)
    for body in ("1", "2", "3"):
        await client.message.publish(url=receiver.url(), body=body)
    await fake.settled()
    assert receiver.bodies()[0] != b"1" and sorted(receiver.bodies()) == [b"1", b"2", b"3"]
    fake.misbehave("out-of-order")
    await client.message.publish(url=receiver.url(), body="alone")
    await fake.advance(60)
    assert receiver.bodies()[-1] == b"alone"


async def test_an_answer_can_get_lost(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """The receiver said 200, QStash never heard it and comes back."""
    fake.misbehave("lost-reply=2")
    await client.message.publish(url=receiver.url(), body="x")
    await fake.advance(3600)
    assert receiver.bodies() == [b"x"] * 3
    assert [delivery.answer.status for delivery in fake.delivered] == [200, 200, 200]
    assert fake.dead == []


async def test_a_connection_can_be_cut_while_the_receiver_works(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """The first attempt is hung up on, the second is heard out."""
    receiver.open.clear()
    fake.misbehave("hang-up=50ms")
    await client.message.publish(url=receiver.url(), body="x")
    await fake.at_rest()
    receiver.open.set()
    await fake.advance(13)
    assert [delivery.answer.status for delivery in fake.delivered] == [0, 200]


@pytest.mark.parametrize("fault", ["foreign-key", "expired", "wrong-body", "wrong-url"])
async def test_a_faulty_token_is_refused_and_the_next_one_is_good(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver, fault: str
) -> None:
    """The fault is on as many attempts as asked for."""
    fake.misbehave(fault)
    receiver.fail(1, 401)
    await client.message.publish(url=receiver.url(), body="x")
    await fake.advance(13)
    assert [refused_by_judge(fake, receiver, number) for number in (0, 1)] == [True, False]


async def test_a_token_can_be_by_the_next_key_or_absent(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """The next key is a good one; a message without any token is for the receiver to refuse."""
    fake.misbehave("next-key=all")
    await client.message.publish(url=receiver.url(), body="x")
    await fake.settled()
    assert not refused_by_judge(fake, receiver, 0)
    signature = receiver.calls[0].headers["Upstash-Signature"]
    with pytest.raises(SignatureError):
        Judge(fake.current_key, fake.current_key).verify(signature=signature, body="x")
    fake.misbehave("unsigned")
    await client.message.publish(url=receiver.url(), body="x")
    await fake.settled()
    assert "Upstash-Signature" not in receiver.calls[1].headers


async def test_mischief_ends_after_the_messages_it_was_ordered_for(
    fake: FakeQstash, client: AsyncQStash, receiver: Receiver
) -> None:
    """Ordered for the next message only."""
    fake.misbehave("twice", messages=1)
    for body in ("1", "2"):
        await client.message.publish(url=receiver.url(), body=body)
    await fake.settled()
    assert sorted(receiver.bodies()) == [b"1", b"1", b"2"]


async def test_what_is_on_its_way_can_be_waited_for(fake: FakeQstash, client: AsyncQStash, receiver: Receiver) -> None:
    """Who waits in vain is told what is left."""
    await client.message.publish(url=receiver.url(), body=b"\xff", delay=60)
    with pytest.raises(TimeoutError, match=f"retried 0 -> {receiver.url()}"):
        await fake.settled(0.05)
    await fake.advance(60)
    await fake.settled()
    [told] = fake.delivered
    assert (told.answer.status, told.retried, told.body) == (200, 0, b"\xff")


async def test_it_is_bounded(receiver: Receiver) -> None:
    """So many on their way and no more; of what is remembered the oldest goes."""
    async with FakeQstash(speed=0, live_max=2, records_max=2) as fake, official_client(fake) as client:
        receiver.fail(3)
        for number in range(2):
            await client.message.publish(url=receiver.url(), body=f"{number}", delay=1, retries=0)
        with pytest.raises(QStashError, match="503"):
            await client.message.publish(url=receiver.url(), body="2", retries=0)
        await fake.advance(1)
        await client.message.publish(url=receiver.url(), body="2", retries=0)
        await fake.settled()
        assert (len(fake.delivered), len(fake.dead)) == (2, 2)


async def test_stopping_drops_what_is_on_its_way_and_may_be_repeated(receiver: Receiver) -> None:
    """Waiting and in-flight messages end with the fake; no task is left."""
    receiver.open.clear()
    fake = FakeQstash()
    await fake.stop()
    await fake.start()
    async with official_client(fake) as client:
        await client.message.publish(url=receiver.url(), body="in flight")
        await client.message.publish(url=receiver.url(), body="waiting", delay=60)
    await wait_until(lambda: receiver.inside == 1, description="one delivery in flight")
    await fake.stop()
    await fake.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("fake-qstash")]


async def test_it_runs_alone(receiver: Receiver) -> None:
    """One JSON line when it is ready, the keys that were asked for, exit 0 on SIGTERM."""
    arguments = ["--port", "0", "--speed", "1000", "--token", "t", "--current-key", "sig_1", "--next-key", "sig_2"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daemon.dev.fake_qstash",
        *arguments,
        "--mischief",
        "twice",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        client = AsyncQStash(ready["QSTASH_TOKEN"], retry=False, base_url=ready["url"])
        await client.message.publish(url=receiver.url(), body="x", delay=12)
        await client.http._client.aclose()
        await wait_until(lambda: len(receiver.calls) == 2, description="delivered, and delivered again")
        assert (ready["QSTASH_CURRENT_SIGNING_KEY"], ready["QSTASH_NEXT_SIGNING_KEY"]) == ("sig_1", "sig_2")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_taken_port_and_wrong_mischief_end_the_program_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 and one line."""
    assert main(["--mischief", "fun"]) == 1
    assert "no such mischief" in capsys.readouterr().err
