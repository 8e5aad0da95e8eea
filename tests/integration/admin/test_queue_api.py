"""The admin API for queues over real HTTP: who may, what is refused, what is carried out and audited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, web

from daemon.admin.queue_api import QueueApi
from daemon.admin.queue_orders import QueueOrders
from daemon.blobs.by_scheme import BlobsByScheme
from daemon.config import EventSettings, PostgresSettings, RedisSettings
from daemon.config.types import SecretStr
from daemon.domain.clock import SystemClock
from daemon.events.log import EventLog
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.store.pool import Pool
from daemon.store.tasks import PostgresLedger

TOKEN = "an-admin-token-of-the-tests"
Q = "/api/admin/queues/q_paid_stream"


class Api:
    """The API on a port of its own."""

    def __init__(self, url: str, session: ClientSession, pool: Pool, redis: Any) -> None:
        self.url, self.session, self.pool, self.redis = url, session, pool, redis

    async def call(self, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        given = {"Authorization": f"Bearer {TOKEN}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        method = self.session.get if path == "/api/admin/queues" else self.session.post
        async with method(f"{self.url}{path}", json=body, headers=given) as response:
            found = await response.json() if "json" in response.content_type else {}
            return response.status, found

    async def control(self) -> dict[str, str]:
        found = await self.redis.hgetall(keys.queue_keys("q_paid_stream").control)
        return {name.decode(): value.decode() for name, value in found.items()}


@pytest.fixture
async def api(
    redis_settings: RedisSettings, postgres_settings: PostgresSettings, request: pytest.FixtureRequest
) -> AsyncIterator[Api]:
    token = getattr(request, "param", TOKEN)
    clock = SystemClock()
    pool = await Pool(postgres_settings).start()
    async with connect(redis_settings) as client, ClientSession() as session:
        scripts = Scripts(client)
        events = EventLog(scripts, EventSettings(), clock)
        orders = QueueOrders(scripts, events, pool, clock, PostgresLedger(pool), BlobsByScheme({}))
        served = QueueApi(orders, SecretStr(token) if token else None, lambda: ["q_paid_stream", "q_free_stream"])
        app = web.Application()
        app.add_routes(served.routes())
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Api(f"http://127.0.0.1:{runner.addresses[0][1]}", session, pool, client)
        await runner.cleanup()
    await pool.close()


async def test_queues_are_listed_with_what_was_ordered(api: Api) -> None:
    status, found = await api.call("/api/admin/queues")
    assert status == 200
    assert [queue["queue"] for queue in found["queues"]] == ["q_paid_stream", "q_free_stream"]
    assert found["queues"][0]["control"]["paused"] is False


async def test_orders_are_carried_out_and_audited_with_who_and_why(api: Api) -> None:
    """pause, set, resume; the control hash says so, and so does the audit log."""
    assert (await api.call(f"{Q}/pause", {"reason": "incident", "who": "ann"}))[0] == 200
    assert (await api.control())["paused"] == "1"
    assert await api.call(f"{Q}/set", {"maxSize": 0, "parallelism": 3}) == (
        200, {"queue": "q_paid_stream", "order": "set", "maxSize": 0, "parallelism": 3},
    )  # fmt: skip
    assert (await api.call(f"{Q}/set", {"parallelism": None}))[0] == 200
    assert (await api.call(f"{Q}/resume"))[0] == 200
    control = await api.control()
    assert control["maxSize"] == "0" and "paused" not in control and "parallelism" not in control
    rows = await api.pool.fetch("SELECT action, actor, role, params FROM qstreamd.audit_log ORDER BY id")
    assert [(r["action"], r["actor"], r["role"]) for r in rows][:2] == [
        ("queue.pause", "api:ann", "admin"), ("queue.set", "api:admin", "admin"),
    ]  # fmt: skip
    assert rows[0]["params"]["reason"] == "incident"


async def test_a_reason_that_was_cut_inside_an_emoji_is_kept(api: Api) -> None:
    assert (await api.call(f"{Q}/pause", {"reason": "cut \ud83d", "who": "ann"}))[0] == 200
    assert (await api.control())["why"] == "cut \ufffd"


async def test_a_purge_wants_the_queue_s_name(api: Api) -> None:
    assert (await api.call(f"{Q}/purge"))[0] == 422
    assert await api.call(f"{Q}/purge", {"confirm": "q_paid_stream"}) == (
        200, {"queue": "q_paid_stream", "order": "purge", "ended": 0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        (f"{Q}/pause", None, {"Authorization": "Bearer wrong"}, 401),
        (f"{Q}/pause", None, {"Authorization": ""}, 401),
        (f"{Q}/pause", None, {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/api/admin/queues/nope/pause", None, {}, 404),
        (f"{Q}/explode", None, {}, 404),
        (f"{Q}/set", {"parallelism": 0}, {}, 422),
        (f"{Q}/set", {"parallelism": True}, {}, 422),
        (f"{Q}/set", {"maxSize": 10**30}, {}, 422),
        (f"{Q}/pause", None, {"Authorization": "Bearer \udcff"}, 401),
        (f"{Q}/set", {"colour": 1}, {}, 422),
        (f"{Q}/set", {}, {}, 422),
        (f"{Q}/pause", [1], {}, 422),
        (f"{Q}/pause", {"reason": "x" * 5000}, {}, 422),
    ],
)
async def test_what_is_refused_changes_nothing(
    api: Api, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    assert (await api.call(path, body, **headers))[0] == status
    assert await api.control() == {}


@pytest.mark.parametrize("api", [""], indirect=True)
async def test_without_a_token_there_is_no_api(api: Api) -> None:
    """As if it were not there."""
    assert (await api.call("/api/admin/queues"))[0] == 404
