"""Probes of a trial on real servers: what a user may not do, what a server does not do, and what is not there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiohttp import web
from pydantic import BaseModel

from daemon import services
from daemon.admin.trial import postgres_probe, qstash_trip, redis_probe
from daemon.admin.trial.result import Result
from daemon.config import PostgresSettings, QstashSettings, RedisSettings, RelaySettings, Settings
from daemon.config.types import SecretStr
from daemon.dev.fake_qstash import FakeQstash
from daemon.domain.clock import SystemClock
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.events.log import EventLog
from daemon.observability.metrics import Metrics
from daemon.queues.admission import Admission
from daemon.queues.reservations import Reservations
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.relay.server import Relay
from tests.redis_clusters import EmbeddedCluster

Group = TypeVar("Group", bound=BaseModel)
CLOCK = SystemClock()


def changed(group: Group, **fields: Any) -> Group:
    """The settings with other values."""
    return group.model_copy(update=fields)


async def all_of(found: AsyncGenerator[Result, None]) -> dict[str, Result]:
    return {f"{result.part} {result.what}": result async for result in found}


def at(url: str, *, user: str = "", password: str = "", database: str | None = None) -> SecretStr:
    """The URL with another user, password or database."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2] if user else parts.netloc
    path = parts.path if database is None else f"/{database}"
    return SecretStr(urlunsplit(parts._replace(netloc=f"{user}:{password}@{place}" if user else place, path=path)))


# --- Redis --------------------------------------------------------------------------------------------------------


async def test_a_redis_that_serves_is_said_to_and_nothing_is_left_there(redis_settings: RedisSettings) -> None:
    found = await all_of(redis_probe.probe(redis_settings, "test", CLOCK))
    assert {name: r.state for name, r in found.items()} == {
        f"redis {what}": "works"
        for what in ("connection", "rights", "blocking read", "Lua", "XAUTOCLAIM", "channel")
    }  # fmt: skip
    client: Any = connect(redis_settings, size=1)
    assert await client.keys("*try*") == []
    await client.aclose()


async def test_nothing_is_written_to_a_redis_of_another_environment(redis_settings: RedisSettings) -> None:
    client: Any = connect(redis_settings, size=1)
    await client.set(keys.ENVIRONMENT, "production")
    before = await written(client)
    found = await all_of(redis_probe.probe(redis_settings, "test", CLOCK))
    after = await written(client)
    await client.delete(keys.ENVIRONMENT)
    await client.aclose()
    assert [(r.what, r.state) for r in found.values()] == [("connection", "works"), ("environment", "fails")]
    assert "NODE_ENV=production" in found["redis environment"].text
    assert before == after


async def written(client: Any) -> dict[str, int]:
    """How often the server was asked to write, by command."""
    told = await client.info("commandstats")
    return {
        name: told.get(f"cmdstat_{name}", {}).get("calls", 0)
        for name in ("set", "xadd", "zadd", "hset", "incr", "eval")
    }


async def test_a_cluster_is_tried_as_one_server(redis_settings: RedisSettings) -> None:
    """Each command at the node that holds its key; named as one server it is told what to write."""
    with EmbeddedCluster() as cluster:
        found = await all_of(redis_probe.probe(changed(redis_settings, url=SecretStr(cluster.url)), "test", CLOCK))
        assert {r.state for r in found.values()} == {"works"}, found
    plain = redis_settings.url.get_secret_value().replace("redis://", "redis+cluster://")
    [refused] = (await all_of(redis_probe.probe(changed(redis_settings, url=SecretStr(plain)), "test", CLOCK))).values()
    assert refused.state == "fails"


@pytest.mark.parametrize(
    ("rules", "what", "said"),
    [
        ("~* +@all resetchannels", "channel", "&qstreamd:control"),
        ("~* &* +@all -@scripting", "Lua", "+@scripting"),
        ("~* &* +@all -xautoclaim", "XAUTOCLAIM", "+@stream"),
        ("~bp:queue:* ~{bp:queue:* ~{guard}* &* +@all", "rights", "~task:*"),
        ("~* &* +@all -client|unblock", "rights", "CLIENT UNBLOCK"),
        ("~* &* +@all -client", "connection", "client"),
    ],
)
async def test_a_user_without_a_right_is_told_which(
    redis_settings: RedisSettings, rules: str, what: str, said: str
) -> None:
    """With a line that gives it."""
    admin: Any = connect(redis_settings, size=1)
    await admin.execute_command("ACL", "SETUSER", "poor", "reset", "on", ">secret-of-poor", *rules.split())
    poor = changed(
        redis_settings, url=at(redis_settings.url.get_secret_value(), user="poor", password="secret-of-poor")
    )
    found = await all_of(redis_probe.probe(poor, "test", CLOCK))
    await admin.execute_command("ACL", "DELUSER", "poor")
    await admin.aclose()
    result = found[f"redis {what}"]
    assert (result.state, result.kind) == ("fails", "rights")
    assert said in result.cure + result.text
    assert "secret-of-poor" not in str(found)


async def test_the_rights_that_it_names_are_enough(redis_settings: RedisSettings) -> None:
    admin: Any = connect(redis_settings, size=1)
    rules = redis_probe.RIGHTS.removeprefix("ACL SETUSER NAME ").split()
    await admin.execute_command("ACL", "SETUSER", "given", "reset", "on", ">secret-of-given", *rules)
    given = at(redis_settings.url.get_secret_value(), user="given", password="secret-of-given")
    found = await all_of(redis_probe.probe(changed(redis_settings, url=given), "test", CLOCK))
    await admin.execute_command("ACL", "DELUSER", "given")
    await admin.aclose()
    assert {name: r.text for name, r in found.items() if r.state != "works"} == {}


async def test_a_wrong_password_is_not_a_blocked_network(redis_settings: RedisSettings) -> None:
    url = redis_settings.url.get_secret_value()
    wrong = changed(redis_settings, url=at(url, user="nobody", password="wrong-password"))
    [refused] = (await all_of(redis_probe.probe(wrong, "test", CLOCK))).values()
    assert (refused.state, refused.kind, "wrong-password" in str(refused)) == ("fails", "key", False)
    away = changed(redis_settings, url=SecretStr("redis://127.0.0.1:1/0"))
    [gone] = (await all_of(redis_probe.probe(away, "test", CLOCK))).values()
    assert (gone.state, gone.kind) == ("fails", "network")


# --- Postgres -----------------------------------------------------------------------------------------------------


async def test_a_postgres_that_serves_is_said_to(postgres_settings: PostgresSettings) -> None:
    found = await all_of(postgres_probe.probe(postgres_settings, CLOCK))
    assert {name: r.state for name, r in found.items()} == {
        f"postgres {what}": "works" for what in ("connection", "role", "prepared", "schema", "rights")
    }


async def test_what_postgres_refuses_is_told_apart(postgres_settings: PostgresSettings, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'secret-of-reader'")
    await connection.execute("GRANT USAGE ON SCHEMA qstreamd TO reader; "
                             "GRANT SELECT ON ALL TABLES IN SCHEMA qstreamd TO reader")  # fmt: skip
    reader = changed(postgres_settings, url=at(postgres_url, user="reader", password="secret-of-reader"))
    found = await all_of(postgres_probe.probe(reader, CLOCK))
    rights = found["postgres rights"]
    assert (rights.kind, "tasks: INSERT" in rights.text, "GRANT" in rights.cure) == ("rights", True, True)
    await connection.execute("DROP OWNED BY reader; DROP ROLE reader; DROP SCHEMA qstreamd CASCADE")
    await connection.close()
    bare = await all_of(postgres_probe.probe(postgres_settings, CLOCK))
    assert bare["postgres schema"].cure == "python -m daemon migrate"
    assert (bare["postgres rights"].state, bare["postgres rights"].kind) == ("works, but", "schema")
    [nowhere] = (
        await all_of(postgres_probe.probe(changed(reader, url=at(postgres_url, database="nope")), CLOCK))
    ).values()
    assert nowhere.kind == "database"
    away = changed(postgres_settings, url=SecretStr("postgresql://u:p@127.0.0.1:1/x"))
    [gone] = (await all_of(postgres_probe.probe(away, CLOCK))).values()
    assert gone.kind == "network"
    [none] = (await all_of(postgres_probe.probe(PostgresSettings(), CLOCK))).values()
    assert none.state == "skipped"


# --- QStash -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def qstash() -> AsyncIterator[FakeQstash]:
    async with FakeQstash() as running:
        yield running


@pytest.fixture
async def system(qstash: FakeQstash, settings: Settings) -> AsyncIterator[Settings]:
    """A relay with QStash's keys on a real Redis, and the settings of whoever tries it."""
    signing = QstashSettings(
        url=qstash.url, token=SecretStr(qstash.token), current_keys=(SecretStr(qstash.current_key),),
        next_keys=(SecretStr(qstash.next_key),),
    )  # fmt: skip
    client = connect(settings.redis, size=4)
    scripts = Scripts(client)
    relay = Relay(
        settings=RelaySettings(), qstash=signing, signing_keys=(qstash.current_key.encode(),), queues=DEFAULT_QUEUES,
        admission=Admission(scripts, settings.queues, CLOCK),
        reservations=Reservations(scripts, settings.queues), events=EventLog(scripts, settings.events, CLOCK),
        ping=client.ping, metrics=Metrics(process=False), clock=CLOCK,
    )  # fmt: skip
    runner = web.AppRunner(relay.app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    relay.settings = RelaySettings(base_url=base)
    yield changed(settings, qstash=signing, relay=RelaySettings(base_url=base))
    await runner.cleanup()
    await client.aclose()


async def trip(settings: Settings) -> dict[str, Result]:
    return await all_of(qstash_trip.probe(settings, services.load(None, deep=False), CLOCK))


async def test_a_round_trip_through_qstash_queues_nothing(system: Settings, qstash: FakeQstash) -> None:
    found = await trip(system)
    assert (found["qstash round trip"].state, found["relay signed call"].state) == ("works", "works")
    [delivery] = qstash.delivered
    assert (delivery.answer.status, delivery.url.endswith("/api/worker/check")) == (200, True)
    client: Any = connect(system.redis, size=1)
    assert await client.keys("*") == []
    await client.aclose()


async def test_what_stops_a_round_trip_is_told_apart(system: Settings, qstash: FakeQstash) -> None:
    """A bad token, keys of another account, no way to the relay, no QStash, no token."""
    bad = changed(system, qstash=changed(system.qstash, token=SecretStr("wrong-token")))
    refused = (await trip(bad))["qstash round trip"]
    assert (refused.kind, "QSTASH_TOKEN" in refused.cure) == ("key", True)
    away = changed(system, qstash=changed(system.qstash, url="http://127.0.0.1:1"))
    assert (await trip(away))["qstash round trip"].kind == "network"
    assert (await trip(changed(system, qstash=changed(system.qstash, token=None))))[
        "qstash round trip"
    ].state == "skipped"
    qstash.keys.current = qstash.keys.next = "sig_of_another_account"
    foreign = (await trip(system))["qstash round trip"]
    assert (foreign.kind, "SIGNING_KEY" in foreign.cure) == ("key", True)
    lost = (await trip(changed(system, relay=RelaySettings(base_url="http://127.0.0.1:1"))))["qstash round trip"]
    assert (lost.state, lost.kind) == ("fails", "network")
