"""What REDIS_URL may say, and what is made of it."""

from __future__ import annotations

import pytest

from daemon.config import describe, load
from daemon.config.redis_url import deployment
from daemon.domain.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("upstash://default:pw@host:6379", "rediss://default:pw@host:6379"),  # the existing system writes it so
        ("rediss://host", "rediss://host"),
        ("redis://host/3", "redis://host/3"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_one_server(given: str, used: str) -> None:
    where = deployment(given)
    assert (where.form, where.url, where.addresses) == ("server", used, ())


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    """What they name themselves is reached with the same user, password and TLS."""
    where = deployment("rediss+cluster://me:p%40ss@a:7000,b?ssl_cert_reqs=none")
    assert (where.form, where.addresses) == ("cluster", (("a", 7000), ("b", 6379)))
    assert where.url == "rediss://me:p%40ss@a:7000/0?ssl_cert_reqs=none"
    assert where.at("10.0.0.7", 7005) == "rediss://me:p%40ss@10.0.0.7:7005/0?ssl_cert_reqs=none"
    assert where.at("::1", 7005) == "rediss://me:p%40ss@[::1]:7005/0?ssl_cert_reqs=none"


def test_a_primary_is_named_by_its_service() -> None:
    """Sentinels may have a password of their own, which the servers never see."""
    where = deployment("redis+sentinel://:pw@a,b:26380/qs/2?sentinel_password=other&sentinel_username=watcher")
    assert (where.form, where.service, where.addresses) == ("sentinel", "qs", (("a", 26379), ("b", 26380)))
    assert where.url == "redis://:pw@a:26379/2"
    assert where.sentinel_login == ("watcher", "other")
    assert deployment("redis+sentinel://a/qs").sentinel_login == (None, None)


def test_what_other_clients_write_is_read() -> None:
    """Lettuce and Spring have a hyphen, and the service behind a hash."""
    assert deployment("redis-cluster://:pw@a:7000,b") == deployment("redis+cluster://:pw@a:7000,b")
    assert deployment("rediss-sentinel://:pw@a,b/2#qs") == deployment("rediss+sentinel://:pw@a,b/qs/2")
    assert deployment("redis-sentinel://a#qs") == deployment("redis+sentinel://a/qs")


@pytest.mark.parametrize(
    "wrong",
    [
        "http://host",
        "redis://",
        "redis://host:0",
        "redis://host:99999",
        "redis://a:1,b:2",
        "unix://",
        "redis+cluster://",
        "redis+cluster://a,,b",
        "redis+cluster://a:0",
        "redis+cluster://a:70000",
        "redis+cluster://a:7000/1",
        "redis+sentinel://a:26379",
        "redis+sentinel://a/qs/first",
        "redis+cluster://a b",
        "memory+cluster://a",
    ],
)
def test_what_leads_nowhere_is_refused(wrong: str) -> None:
    """At start, not at the first command."""
    with pytest.raises(ConfigError, match="REDIS_URL=") as caught:
        load({"REDIS_URL": wrong})
    assert ":pw" not in str(caught.value)


def test_no_password_is_shown() -> None:
    """Settings are printed by `config`, and `doctor` quotes them."""
    settings = load({"REDIS_URL": "redis+sentinel://me:pw1@a,b/qs?sentinel_password=pw2"})
    [shown] = [entry.value for entry in describe(settings) if entry.name == "REDIS_URL"]
    assert "pw1" not in shown and "pw2" not in shown and "@a,b/qs" in shown
