"""The settings as a whole: loading, rules, roles, what is printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from daemon import config
from daemon.config import QueueSettings, Settings, describe, load, secrets
from daemon.config.sources import Setting
from daemon.config.types import SecretStr
from daemon.domain.errors import ConfigError

ROOT = Path(__file__).parents[3]
SERVER = {
    "REDIS_URL": "redis://:s3cret-of-redis@redis:6379/0",
    "DATABASE_URL": "postgresql://u:s3cret-of-postgres@postgres/db",
    "WORKER_BASE_URL": "https://worker.example.com/",
    "QSTASH_CURRENT_SIGNING_KEY": "sig_a,sig_b",
    "QSTASH_NEXT_SIGNING_KEY": "sig_c",
}
DEVELOPMENT_KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"


def mistakes_of(environ: dict[str, str], role: config.Role | None = None) -> list[str]:
    """What `load` refuses."""
    with pytest.raises(ConfigError) as caught:
        load(environ, role)
    return caught.value.mistakes


def test_an_empty_environment_is_production_with_every_default() -> None:
    """A forgotten variable is never unsafe."""
    settings = load({})
    assert settings.runtime.environment == "production"
    assert not settings.runtime.development
    assert settings.model_copy(update={"sources": {}, "warnings": ()}) == Settings()
    assert set(settings.sources.values()) == {"default"}


def test_the_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here, and only when asked."""
    monkeypatch.setenv("RELAY_PORT", "1234")
    assert load().relay.port == 1234
    assert load({}).relay.port == 8080


def test_a_server_needs_only_what_the_protocol_names() -> None:
    """Protocol 8, `enough to run on a VPS`; no warning remains."""
    settings = load(SERVER, "relay")
    load(SERVER, "daemon")
    assert settings.relay.base_url == "https://worker.example.com"
    assert settings.qstash.current_keys == (SecretStr("sig_a"), SecretStr("sig_b"))
    assert settings.warnings == ()


def test_settings_can_not_be_changed_afterwards() -> None:
    """What was checked is what runs."""
    settings = load({})
    with pytest.raises(ValidationError, match="frozen"):
        settings.lease.lease_s = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        settings.lease = settings.lease
    with pytest.raises(TypeError):
        settings.sources["NODE_ENV"] = "file"  # type: ignore[index]  # that is the test


def test_all_mistakes_come_at_once_one_line_each() -> None:
    """Nobody mends settings one restart at a time."""
    found = mistakes_of(
        {
            "QSTREAMD_BEAT_S": "fast",
            "RELAY_PORT": "99999",
            "QSTREAMD_LEASES_S": "20",
            "QSTREAMD_DRAIN_S": "300",
            "REDIS_URL": "http://user:s3cret@host",
        },
        "relay",
    )
    assert [line.split("=")[0].split(" ")[0] for line in found] == [
        "REDIS_URL", "RELAY_PORT", "QSTREAMD_BEAT_S", "QSTREAMD_LEASES_S", "QSTREAMD_DRAIN_S", "WORKER_BASE_URL",
        "QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY",
    ]  # fmt: skip
    assert not any("\n" in line or "s3cret" in line for line in found)


def test_a_rule_about_an_unreadable_value_is_not_judged() -> None:
    """The default that stands in for it would be blamed for what nobody wrote."""
    assert len(mistakes_of({"QSTREAMD_LEASE_S": "1", "QSTREAMD_BEAT_S": "x", "QSTREAMD_SELF_FENCE_S": "y"})) == 2


def test_an_unknown_variable_of_ours_is_refused_with_a_suggestion() -> None:
    """No typing error goes unnoticed."""
    assert mistakes_of({"QSTREAMD_LEASES_S": "5"}) == [
        "QSTREAMD_LEASES_S is not a setting; did you mean QSTREAMD_LEASE_S?"
    ]


def test_an_unknown_variable_that_may_be_somebody_elses_is_only_named() -> None:
    """`QUEUE_MAX_…` may belong to the front end; still, most likely it is a typing error."""
    assert load({**SERVER, "QUEUE_MAX_PAID_STEAM": "5"}).warnings == (
        "QUEUE_MAX_PAID_STEAM is not a setting; did you mean QUEUE_MAX_PAID_STREAM?",
    )


def test_a_missing_requirement_of_a_role_is_named() -> None:
    """The relay needs no database, the daemon no signing key."""
    assert any(line.startswith("WORKER_BASE_URL is not set: ") for line in mistakes_of({}, "relay"))
    assert [line.partition(":")[0] for line in mistakes_of({}, "daemon")] == ["DATABASE_URL is not set"]
    load({k: v for k, v in SERVER.items() if k != "DATABASE_URL"}, "relay")
    load({"DATABASE_URL": SERVER["DATABASE_URL"]}, "daemon")


def test_signatures_may_be_skipped_in_development_only() -> None:
    """Then the relay needs no keys; anywhere else the start is refused."""
    unsigned = {"QSTASH_SKIP_VERIFY": "true", "WORKER_BASE_URL": "http://127.0.0.1:8080"}
    assert load({**unsigned, "NODE_ENV": "development"}, "relay").qstash.skip_verify
    for environment in ({}, {"NODE_ENV": "production"}, {"NODE_ENV": "test"}):
        assert any("NODE_ENV=development" in line for line in mistakes_of({**unsigned, **environment}))


@pytest.mark.parametrize("name", ["QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY"])
def test_public_development_keys_are_refused_outside_development(name: str) -> None:
    """In either place, also inside a list, and the line shows no key."""
    environ = {**SERVER, name: f"sig_mine,{DEVELOPMENT_KEY}"}
    (line,) = mistakes_of(environ)
    assert line.startswith(f"{name}=") and "public" in line and "sig_" not in line
    assert load({**environ, "NODE_ENV": "development"}).runtime.development


@pytest.mark.parametrize(
    ("environ", "warns"),
    [
        ({"REDIS_URL": "redis://redis:6379"}, True),
        ({"REDIS_URL": "redis://redis:6379", "NODE_ENV": "development"}, False),
        ({"REDIS_URL": "redis://:pw@redis:6379"}, False),
        ({"REDIS_URL": "unix:///run/redis.sock"}, False),
    ],
)
def test_a_redis_without_password_only_warns(environ: dict[str, str], warns: bool) -> None:  # noqa: FBT001
    """It may be closed off by other means."""
    assert any("REDIS_URL" in line for line in load(environ).warnings) is warns


def test_loopback_and_plain_http_are_fine_in_production() -> None:
    """TLS ends at the proxy."""
    load({**SERVER, "WORKER_BASE_URL": "http://127.0.0.1:8080", "REDIS_URL": "redis://:pw@127.0.0.1"}, "relay")


def test_every_default_keeps_every_rule_and_every_name_is_unique() -> None:
    """Nothing to be refused out of the box; public names follow the protocol."""
    names = [entry.name for _, entry in config.catalogue()]
    assert len(names) == len(set(names))
    load({})
    assert all(entry.reason and entry.kind.allowed for _, entry in config.catalogue())


def test_tunables_have_their_unit_at_the_end_of_their_name() -> None:
    """`QSTREAMD_…_S` is in seconds, `…_MS` in milliseconds, and the other way round."""
    for _, entry in config.catalogue():
        if entry.name.startswith("QSTREAMD_"):
            assert (entry.kind.unit == "s") == entry.name.endswith("_S"), entry.name
            assert (entry.kind.unit == "ms") == entry.name.endswith("_MS"), entry.name
            assert (entry.kind.unit == "bytes") == ("_BYTES" in entry.name), entry.name


def test_every_default_is_a_value_that_its_kind_would_take() -> None:
    """The same limits for us as for everybody."""
    for _, entry in config.catalogue():
        if isinstance(entry.default, bool | int | float | str):
            raw = str(entry.default).lower() if isinstance(entry.default, bool) else str(entry.default)
            assert taken(entry, raw) == entry.default, entry.name


def test_a_queue_has_its_own_size_and_parallelism() -> None:
    """`of` answers for the six default queues; None when unset, and for every other name."""
    queues = load({"QUEUE_MAX_PAID_STREAM": "7", "QUEUE_PARALLELISM_FREE_VISION": "3"}).queues
    assert queues.of("max", "q_paid_stream") == 7
    assert queues.of("parallelism", "q_free_vision") == 3
    assert queues.of("parallelism", "q_paid_stream") is None
    for name in ("q_size", "q_", "paid_stream", "q_paid_long", "q_ttl_s", "max"):
        assert QueueSettings().of("max", name) is None


def test_what_is_printed_holds_no_secret_and_every_source() -> None:
    """Values that were given are shown as given, secrets masked, servers by their address."""
    shown = {entry.name: entry for entry in describe(load({**SERVER, "QSTREAMD_LEASE_S": "30"}))}
    assert shown["REDIS_URL"].value == "redis://***@redis:6379/0"
    assert shown["QSTASH_CURRENT_SIGNING_KEY"].value == ["***", "***"]
    assert shown["QSTREAMD_LEASE_S"][2:5] == (30.0, "environment", "s")
    assert shown["QSTREAMD_BEAT_S"].source == "default"
    assert "s3cret" not in str(shown) and "sig_" not in str(shown)
    assert len(shown) == len(config.catalogue())


def test_all_secrets_are_known_to_the_log() -> None:
    """Whole and in parts; the default address of Redis is none."""
    found = set(secrets(load({**SERVER, "API_KEYS": "web:0123456789abcdef"})))
    assert {"sig_a", "sig_b", "sig_c", "s3cret-of-redis", "s3cret-of-postgres", "0123456789abcdef"} <= found
    assert secrets(load({})) == []


@pytest.mark.parametrize("role", ["relay", "daemon"])
def test_the_development_example_runs_as_it_is(role: config.Role) -> None:
    """Copy it, start: no mistake, no warning."""
    settings = load(example(".env.example"), role)
    assert settings.runtime.development
    assert settings.warnings == ()


def test_the_production_example_asks_for_what_only_you_know() -> None:
    """As shipped it names what is to be filled in, and nothing else; filled in, it runs without a warning."""
    environ = example(".env.production.example")
    assert [line.split(" ")[0] for line in mistakes_of(environ, "relay")] == [
        "QSTASH_CURRENT_SIGNING_KEY",
        "QSTASH_NEXT_SIGNING_KEY",
    ]
    filled = {**environ, "QSTASH_CURRENT_SIGNING_KEY": "sig_a", "QSTASH_NEXT_SIGNING_KEY": "sig_b"}
    assert load(filled, "relay").warnings == ()
    load(filled, "daemon")


@pytest.mark.parametrize("name", [".env.example", ".env.production.example"])
def test_the_examples_name_every_public_setting(name: str) -> None:
    """Set or as a comment; what systemd sets and the tunables of docs/settings.md aside. Nothing in them is unknown."""
    text = (ROOT / name).read_text("utf-8")
    named = set(example(name)) | {
        line[2:].split("=")[0] for line in text.splitlines() if line.startswith("# ") and "=" in line
    }
    public = {e.name for group, e in config.catalogue() if group != "systemd" and not e.name.startswith("QSTREAMD_")}
    assert {n for n in public if n not in text} - {"NO_COLOR", "JOURNAL_STREAM"} == set()
    known = {entry.name for _, entry in config.catalogue()}
    assert {n for n in named if n.isupper() and n.replace("_", "").isalpha()} - known - {"NAME"} == set()


def test_the_defaults_that_the_production_example_shows_are_the_defaults() -> None:
    """A comment that lies is worse than none."""
    text = (ROOT / ".env.production.example").read_text("utf-8")
    defaults = {entry.name: entry.default for _, entry in config.catalogue()}
    for line in text.splitlines():
        name, _, value = line.removeprefix("# ").partition("=")
        if line.startswith("# ") and value and isinstance(defaults.get(name), int | float | str):
            entry = next(e for _, e in config.catalogue() if e.name == name)
            assert taken(entry, value) == entry.default, line


def test_importing_the_settings_stays_cheap() -> None:
    """Every process pays for it, the relay too: no server's client, no client of a cloud."""
    script = "import daemon.config, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    unwanted = {"redis", "aiohttp", "structlog", "msgspec", "jinja2", "yaml", "boto3", "azure", "google"}
    assert unwanted & set(done.stdout.split()) == set()


def taken(entry: Setting, raw: str) -> object:
    """What its group makes of a text."""
    group = type(getattr(Settings(), entry.group))
    return getattr(group.model_validate({entry.name: raw}), entry.attribute)


def example(name: str) -> dict[str, str]:
    """The variables that a file sets: NAME=value lines, as systemd and Compose read them."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}
