"""The official JavaScript client as publisher and judge of the fake QStash. Skipped where node is missing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from _pytest.outcomes import Failed, Skipped
from qstash import Receiver as Judge
from qstash.errors import SignatureError

from daemon.dev.fake_qstash import FakeQstash
from tests.integration.dev.qstash_receiver import Receiver, official_client
from tests.integration.js import toolchain
from tests.integration.js.toolchain import node_modules, run_script


@pytest.fixture
def modules(pytestconfig: pytest.Config) -> Path:
    return node_modules(pytestconfig.rootpath / ".pytest_cache" / "node")


async def test_the_javascript_client_gets_what_it_expects(modules: Path, receiver: Receiver) -> None:
    """Publish, retry, deduplicate, delay, queue, flow control, failure callback, refusals."""
    receiver.failing = "/fail/"
    async with FakeQstash(speed=0) as fake:
        environment = fake.environment | {"RECEIVER": receiver.url("")}
        told = json.loads(await run_script(modules, "use_qstash.cjs", environment))
        await fake.advance(60)
        history = list(fake.delivered)
        [dead] = fake.dead
        assert [message.url for message in fake.engine.live.values()] == [receiver.url("/never")]
    assert Counter(seen.path for seen in receiver.calls) == {
        "/published?x=1": 1,
        "/once": 1,
        "/fail/chosen": 3,
        "/failed": 1,
        "/flow": 1,
        "/queued": 2,
    }
    [published] = [seen for seen in receiver.calls if seen.path == "/published?x=1"]
    assert json.loads(published.body) == {"n": 1, "text": "é✓"}
    assert published.headers["X-Task-Id"] == "t1"
    assert published.headers["Upstash-Message-Id"] == told["published"]["messageId"]
    assert told["duplicate"][1] == {"messageId": told["duplicate"][0]["messageId"], "deduplicated": True}
    chosen = [delivery.at for delivery in history if delivery.url.endswith("/fail/chosen")]
    assert [round(at - chosen[0]) for at in chosen] == [0, 1, 3]
    assert (dead.answer.status, dead.message.retried) == (500, 2)
    flow = [delivery for delivery in history if delivery.url.endswith("/flow")]
    assert round(flow[0].at - chosen[0]) == 10
    assert [seen.body for seen in receiver.calls if seen.path == "/queued"] == [b'{"n":1}', b'{"n":2}']
    assert told["enqueued"]["messageId"].startswith("msg_")
    assert told["stranger"]["status"] == 400 and "loopback" in told["stranger"]["message"]
    assert told["thief"]["status"] == 401


async def test_both_official_receivers_judge_each_token_alike(modules: Path, receiver: Receiver) -> None:
    """Good tokens (also by the next key) are accepted, every faulty one is refused, by both."""
    faults = ["", "next-key", "foreign-key", "expired", "wrong-body", "wrong-url"]
    async with FakeQstash(speed=0) as fake, official_client(fake) as client:
        for fault in faults:
            fake.misbehave(fault)
            await client.message.publish_json(url=receiver.url(f"/{fault}"), body={"fault": fault, "ü": "✓"})
            await fake.settled()
        tokens = [
            {
                "signature": seen.headers["Upstash-Signature"],
                "body": seen.body.decode(),
                "url": receiver.url(seen.path),
            }
            for seen in receiver.calls
        ]
        verdicts = json.loads(
            await run_script(modules, "judge_signatures.cjs", fake.environment | {"TOKENS": json.dumps(tokens)})
        )
        judge = Judge(fake.current_key, fake.next_key)
    accepted = dict(zip(faults, (verdict is None for verdict in verdicts), strict=True))
    assert accepted == {fault: fault in ("", "next-key") for fault in faults}, verdicts
    for fault, token in zip(faults, tokens, strict=True):
        try:
            judge.verify(signature=token["signature"], body=token["body"], url=token["url"])
        except SignatureError:
            assert not accepted[fault], fault
        else:
            assert accepted[fault], fault


@pytest.mark.parametrize(("required", "outcome"), [(False, Skipped), (True, Failed)])
def test_a_machine_without_node_says_so(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    required: bool,  # noqa: FBT001 - a table of cases
    outcome: type[BaseException],
) -> None:
    """Skipped with the reason; failed where the suite was told that node must be there."""
    monkeypatch.setattr(toolchain, "REQUIRED", required)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(outcome, match="no node and npm"):
        node_modules(tmp_path)


def test_a_failed_installation_is_a_reason_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Node is there, the packages are not: the first line of npm's complaint is told."""
    monkeypatch.setattr(toolchain, "REQUIRED", False)
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error no network' >&2\nexit 1\n", "utf-8")
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(npm))
    with pytest.raises(Skipped, match="npm ci failed: npm error no network"):
        node_modules(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
