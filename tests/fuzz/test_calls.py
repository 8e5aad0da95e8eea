"""Whatever is sent, signed or with a key: an answer that is described, no 5xx, and nothing left that should not be."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from daemon.config.types import SecretStr
from daemon.dev.fake_qstash.signing import sign
from daemon.domain.clock import SystemClock
from daemon.gateway.tokens import Tokens
from tests.e2e.gateway_world import KEY, SECRET, World, world
from tests.fuzz import described
from tests.fuzz.calls import Call, calls, family
from tests.leaks import Leaks
from tests.waiting import WaitUntil

SAMPLE: Final = 400
WHOLE: Final = 100_000
CALLS_AN_EXAMPLE: Final = 5  #: at the least on average; see `family`
ADMIN: Final = "admin-token-of-twenty-characters"
SETTINGS: Final[dict[str, Any]] = {
    "ADMIN_TOKEN": ADMIN, "QSTREAMD_DIRECT_SUBMIT": "true", "QSTREAMD_SUBMITS_PER_MINUTE": "1000000",
    "QSTREAMD_UPLOADS_PER_MINUTE": "1000000", "QUEUE_MAX_SIZE": "100000", "QUEUE_MAX_FREE_VISION": "3",
    "USER_CONCURRENCY_PAID": "50", "USER_CONCURRENCY_FREE": "50", "S3_ENDPOINT_URL": "http://127.0.0.1:1",
    "S3_BUCKET": "images", "S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": "secret",
}  # fmt: skip


class Doors:
    """One kept connection to each process; remembers what was accepted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ports = {"relay": world.parts["relay"].port, "gateway": world.parts["gateway"].port,
                       "ops": world.parts["daemon"].port}  # fmt: skip
        self._open: dict[str, http.client.HTTPConnection] = {}
        self._clock = SystemClock()
        self._tokens = Tokens(SecretStr(SECRET), self._clock, 3600)
        self.accepted: set[str] = set()
        self.statuses: dict[int, int] = {}

    def send(self, call: Call) -> None:
        """Send it and judge the answer."""
        answer = self._answered(call)
        raw, status = answer.read(), answer.status
        headers = {name.lower(): value for name, value in answer.getheaders()}
        self.statuses[status] = self.statuses.get(status, 0) + 1
        assert described.flaw(call.method, call.path, status, headers, raw) == "", (call, status, raw)
        assert status < 500 or (status == 503 and _newer(call.body)), (call, status, raw)
        if status in {200, 202} and call.path.endswith(
            ("/{service}", "/execute", "/stream", "/batch", "/{queueId}", "/tasks")
        ):
            self.accepted.add(json.loads(raw)["taskId"])

    def close(self) -> None:
        """Close what is open."""
        for connection in self._open.values():
            connection.close()

    def _answered(self, call: Call) -> http.client.HTTPResponse:
        headers: dict[str, Any] = {**call.headers, **self._authority(call)}
        for kept in (True, False):  # a kept connection may have been closed since
            connection = self._open.get(call.door)
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._ports[call.door], timeout=30)
                self._open[call.door] = connection
            try:
                connection.request(call.method.upper(), call.url, call.body, headers)
                return connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionError):
                connection.close()
                if not kept:
                    raise
        raise AssertionError

    def _authority(self, call: Call) -> dict[str, str]:
        if call.door == "relay":
            url = self._world.parts["relay"].url + call.url
            key = self._world.qstash.environment["QSTASH_CURRENT_SIGNING_KEY"]
            return {"Upstash-Signature": sign(key, url=url, body=call.body, issued_at=self._clock.time())}
        bearer = KEY
        if call.door == "ops":
            bearer = ADMIN
        elif "uploads" in call.path:
            bearer = self._tokens.upload_ticket("u1")
        elif call.path.endswith("/events"):
            bearer = self._tokens.task_token(call.url.split("/")[3])
        return {"Authorization": f"Bearer {bearer}"}


def _newer(body: bytes) -> bool:
    """Whether the message says that it is of a version to come."""
    try:
        version = json.loads(body)["v"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return type(version) is int and version > 1


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.long)])
async def test_no_call_gets_an_answer_that_is_not_described(
    redis_url: str, postgres_url: str, count: int, wait_until: WaitUntil
) -> None:
    """100,000 calls with `make fuzz`, some hundred always; then the daemon ends every task and nothing is left."""
    async with world(redis_url, postgres_url, models={"tokens_per_s": 20_000.0}, **SETTINGS) as found:
        doors = Doors(found)

        @settings(max_examples=count // CALLS_AN_EXAMPLE, derandomize=count == SAMPLE, database=None, deadline=None,
                  phases=[Phase.generate, Phase.shrink] if count == SAMPLE else [Phase.generate],
                  suppress_health_check=[*HealthCheck])  # fmt: skip
        @given(calls)
        def send(call: Call) -> None:
            for each in family(call):
                doors.send(each)

        try:
            await asyncio.to_thread(send)
        finally:
            doors.close()

        async def ended() -> bool:
            busy[:] = await _busy(found)
            return not busy

        busy: list[str] = []
        await wait_until(ended, description="every task has ended", within_s=10 + count / 100)
        print(f"{sum(doors.statuses.values())} calls, {len(doors.accepted)} tasks: {doors.statuses}")  # noqa: T201
        await _nothing_strange(found, doors.accepted, redis_url)


async def _busy(world: World) -> list[str]:
    """What is still under way."""
    rows = await world.postgres.fetch(
        "select task_id, state from qstreamd.tasks where state not in ('done', 'failed', 'cancelled', 'expired')"
    )
    counters = {key: await world.redis.get(key) async for key in world.redis.scan_iter(match="bp:queue:*")}
    waiting = [key async for key in world.redis.scan_iter(match="{bp:queue:*}:retry")]
    return [*map(str, rows), *map(str, waiting), *(f"{key} {n}" for key, n in counters.items() if int(n) != 0)]


async def _nothing_strange(world: World, accepted: set[str], redis_url: str) -> None:
    """Rows for what was accepted and nothing else; one end for each; every key has an end of life."""
    rows = {row["task_id"] for row in await world.postgres.fetch("select task_id from qstreamd.tasks")}
    assert rows <= accepted
    for task_id in accepted:
        entries = await world.redis.xrange(f"task:{task_id}:events")
        told = [json.loads(fields[b"data"]) for _, fields in entries]
        ends = [event for event in told if event["type"] == "done" or event.get("retryable") is False]
        assert told[0]["type"] == "queued" and ends == told[-1:], (task_id, told)
    assert Leaks(redis_url).find() == []
