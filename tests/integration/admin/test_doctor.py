"""Planted misconfigurations: each is found, named and given its cure. Real servers, a real relay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from daemon.admin.checkup.finding import Finding
from daemon.admin.connections import Connections
from daemon.admin.doctor import configuration, examine
from daemon.config import Settings
from daemon.config.settings import PostgresSettings, ProviderSettings, QstashSettings, RedisSettings, RelaySettings
from daemon.config.types import SecretStr
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.events.log import EventLog
from daemon.observability.metrics import Metrics
from daemon.queues.admission import Admission
from daemon.queues.reservations import Reservations
from daemon.redis_client import keys
from daemon.relay.server import Relay
from tests.integration.admin.conftest import System

KEYS = QstashSettings(current_keys=(SecretStr("sig_current"),), next_keys=(SecretStr("sig_next"),))


async def found(settings: Settings, *, providers: bool = False) -> dict[str, Finding]:
    """By check; of several the worst."""
    order = {"ok": 0, "info": 1, "warning": 2, "error": 3}
    findings = sorted(await examine(settings, providers=providers), key=lambda f: order[f.level])
    return {finding.check: finding for finding in findings}


async def test_a_sound_system_has_no_error(settings: Settings) -> None:
    """But for what the servers of the tests are: without fsync and persistence."""
    errors = {f.check for f in (await found(settings)).values() if f.level == "error"}
    assert errors <= {"postgres.durability"}


async def test_a_full_redis_policy_is_found(redis_server: EmbeddedRedis, settings: Settings) -> None:
    """1 and 2: a policy that evicts, no persistence."""
    settings = settings.model_copy(update={"redis": RedisSettings(url=SecretStr(redis_server.url))})
    async with Connections(settings) as at:
        await at.redis.config_set("maxmemory-policy", "allkeys-lru")
        await at.redis.config_set("appendonly", "no")
    seen = await found(settings)
    assert (seen["redis.policy"].level, "noeviction" in seen["redis.policy"].cure) == ("error", True)
    assert (seen["redis.persistence"].level, "appendonly yes" in seen["redis.persistence"].cure) == ("warning", True)


async def test_another_environment_is_found(settings: Settings) -> None:
    """3 and 4: Redis and Postgres of production, a process of `test`."""
    async with Connections(settings) as at:
        await at.redis.set(keys.ENVIRONMENT, "production")
        await at.pool.fetch("INSERT INTO qstreamd.environment (name) VALUES ('production')")
    seen = await found(settings)
    for check in ("redis.environment", "postgres.environment"):
        assert seen[check].level == "error"
        assert "NODE_ENV" in seen[check].cure


async def test_servers_that_are_away_are_found_apart(settings: Settings) -> None:
    """5 and 6: a wrong port here does not hide what is there."""
    no_redis = settings.model_copy(update={"redis": RedisSettings(url=SecretStr("redis://127.0.0.1:1/0"))})
    seen = await found(no_redis)
    assert seen["redis.reach"].level == "error"
    assert seen["postgres.schema"].level == "ok"
    no_postgres = settings.model_copy(
        update={"postgres": PostgresSettings(url=SecretStr("postgresql://x@127.0.0.1:1/x"))}
    )
    seen = await found(no_postgres)
    assert seen["postgres.reach"].level == "error"
    assert "DATABASE_URL" in seen["postgres.reach"].cure
    assert seen["redis.policy"].level == "ok"
    assert (await found(settings.model_copy(update={"postgres": PostgresSettings()})))[
        "postgres.reach"
    ].level == "warning"


async def test_a_schema_that_was_never_migrated_is_found(settings: Settings, postgres_url: str) -> None:
    """7: with the command that makes it."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("DROP SCHEMA qstreamd CASCADE")
    await connection.close()
    schema = (await found(settings))["postgres.schema"]
    assert (schema.level, schema.cure) == ("error", "python -m daemon migrate")


async def test_a_missing_template_is_found(settings: Settings, tmp_path: Path) -> None:
    """8: a service whose prompt is not in Postgres."""
    file = tmp_path / "services.toml"
    file.write_text("""
[models.m]
provider = "openai"
name = "gpt"
input = ["text"]
[services.s]
title = "S"
template = "letter@3"
models = { paid = ["m"] }
output = "text"
""")
    settings = settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"services_file": str(file)})})
    async with Connections(settings) as at:
        await at.pool.fetch("INSERT INTO qstreamd.prompt_templates (name, version, prompt) VALUES ('letter', 1, 'x')")
    missing = (await found(settings))["postgres.templates"]
    assert missing.level == "error"
    assert "letter@3" in missing.text


async def test_a_queue_that_nobody_reads_is_found(settings: Settings) -> None:
    """9: tasks wait, no daemon is there."""
    async with Connections(settings) as at:
        await System(at).accept("t1")
    unread = next(
        f for f in await examine(settings, providers=False) if f.check == "queues.unread" and f.level == "error"
    )
    assert unread.cure == "python -m daemon --queues q_paid_stream"


async def test_the_same_signing_key_twice_is_found(settings: Settings) -> None:
    """10: as copied in a hurry."""
    twice = QstashSettings(current_keys=(SecretStr("sig_a"),), next_keys=(SecretStr("sig_a"),))
    seen = await found(settings.model_copy(update={"qstash": twice}))
    assert seen["config.keys"].level == "warning"


def test_mistakes_of_the_environment_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """11: as `check` says them; nothing can be asked then."""
    monkeypatch.setenv("QSTREAMD_LEASE_S", "1")
    mistakes = [f for f in configuration() if f.level == "error"]
    assert any("QSTREAMD_LEASE_S" in mistake.text and mistake.cure for mistake in mistakes)
    monkeypatch.delenv("QSTREAMD_LEASE_S")
    for name in ("DEEPSEEK", "OPENAI", "GEMINI"):
        monkeypatch.setenv(f"{name}_API_KEY", "x")
    monkeypatch.setenv("NODE_ENV", "development")
    assert [f.level for f in configuration()] == ["ok"]


# --- the way of a signed call ---------------------------------------------------------------------------------------


@pytest.fixture
async def relay(settings: Settings) -> AsyncIterator[tuple[str, Settings]]:
    """A relay on a port of its own, and settings that name it."""
    async with Connections(settings) as at:
        made = Relay(
            settings=RelaySettings(), qstash=KEYS, signing_keys=(b"sig_current", b"sig_next"), queues=DEFAULT_QUEUES,
            admission=Admission(at.scripts, settings.queues, at.clock),
            reservations=Reservations(at.scripts, settings.queues),
            events=EventLog(at.scripts, settings.events, at.clock), ping=at.redis.ping, metrics=Metrics(),
            clock=SystemClock(),
        )  # fmt: skip
        async with TestServer(made.app()) as server:
            base = str(server.make_url("")).rstrip("/")
            made.settings = RelaySettings(base_url=base)
            yield base, settings.model_copy(update={"relay": RelaySettings(base_url=base), "qstash": KEYS})


async def test_a_relay_that_answers_is_fine(relay: tuple[str, Settings]) -> None:
    """Signed: accepted by word only, nothing is queued; unsigned: refused."""
    _, settings = relay
    seen = await found(settings)
    assert (seen["relay.signed"].level, seen["relay.unsigned"].level) == ("ok", "ok")
    async with Connections(settings) as at:
        assert await at.redis.exists(keys.queue_keys("q_paid_stream").tasks) == 0


async def test_a_wrong_key_is_found(relay: tuple[str, Settings]) -> None:
    """12: the relay has another one."""
    _, settings = relay
    wrong = QstashSettings(current_keys=(SecretStr("sig_other"),))
    seen = await found(settings.model_copy(update={"qstash": wrong}))
    assert seen["relay.signed"].level == "error"
    assert "SIGNING_KEY" in seen["relay.signed"].cure
    assert (await found(settings.model_copy(update={"qstash": QstashSettings()})))["relay.signed"].level == "info"


async def test_a_wrong_address_is_found(settings: Settings) -> None:
    """13: nobody there, something else there, no such name."""

    async def other(_: web.Request) -> web.Response:
        return web.Response(text="<h1>It works!</h1>")

    app = web.Application()
    app.router.add_post("/{path:.*}", other)
    async with TestServer(app) as server:
        there = str(server.make_url("")).rstrip("/")
        for base, words in (
            (there, "something else"),
            ("http://127.0.0.1:1", "start the relay"),
            ("http://no-such-host.invalid", "DNS"),
        ):
            seen = await found(settings.model_copy(update={"relay": RelaySettings(base_url=base), "qstash": KEYS}))
            assert seen["relay.signed"].level == "error"
            assert words in seen["relay.signed"].cure


# --- providers ------------------------------------------------------------------------------------------------------


async def test_providers_are_asked_only_when_wanted_and_never_for_an_answer(settings: Settings) -> None:
    """14: a refused key; a list of models costs nothing."""
    asked: list[tuple[str, str]] = []

    async def models(request: web.Request) -> web.Response:
        asked.append((request.method, request.path))
        if request.headers.get("Authorization") == "Bearer sk-bad":
            return web.Response(status=401)
        return web.json_response({"data": [{"id": "deepseek-v4"}], "models": [{"name": "models/x"}]})

    app = web.Application()
    app.router.add_get("/{path:.*}", models)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        providers = ProviderSettings(
            openai_api_key=SecretStr("sk-bad"), openai_base_url=url, gemini_api_key=SecretStr("g"), gemini_base_url=url,
            deepseek_api_key=SecretStr("d"), deepseek_base_url="http://127.0.0.1:1",
        )  # fmt: skip
        settings = settings.model_copy(update={"providers": providers})
        assert "provider.openai" not in await found(settings)
        assert not asked
        seen = await found(settings, providers=True)
    assert (seen["provider.openai"].level, "OPENAI_API_KEY" in seen["provider.openai"].cure) == ("error", True)
    assert seen["provider.gemini"].level == "warning", "the model of the services file is not listed"
    assert seen["provider.deepseek"].level == "error"
    assert set(asked) == {("GET", "/models"), ("GET", "/v1beta/models")}


async def test_a_bad_services_file_stops_the_examination(settings: Settings, tmp_path: Path) -> None:
    """Its mistakes are among the findings of the configuration."""
    runtime = settings.runtime.model_copy(update={"services_file": str(tmp_path / "none.toml")})
    with pytest.raises(ConfigError):
        await examine(settings.model_copy(update={"runtime": runtime}), providers=False)


async def test_a_managed_server_that_forbids_questions_is_taken_as_it_is(
    redis_server: EmbeddedRedis, settings: Settings
) -> None:
    """No CONFIG, or no INFO either: said, not guessed."""
    url = urlsplit(redis_server.url)
    async with Connections(settings.model_copy(update={"redis": RedisSettings(url=SecretStr(redis_server.url))})) as at:
        for user, commands in (("a", ["-config"]), ("b", ["-config", "-info"])):
            await at.redis.acl_setuser(
                user, enabled=True, passwords=["+secret-secret"], keys=["*"], channels=["*"], categories=["+@all"],
                commands=commands,
            )  # fmt: skip
    for user, check, level in (("a", "redis.persistence", "ok"), ("b", "redis.info", "info")):
        theirs = SecretStr(f"redis://{user}:secret-secret@{url.hostname}:{url.port}/0")
        seen = await found(settings.model_copy(update={"redis": RedisSettings(url=theirs)}))
        assert seen[check].level == level
        assert seen["redis.distance"].level == "ok"
