"""Who wins where two or three have set a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config import GuardSettings, QueueSettings, load
from daemon.domain.errors import ConfigError
from daemon.domain.queues import Mode, QueueSpec, Tier
from daemon.services import Model, ServiceCatalog
from daemon.services.limits_in_force import limit_of, max_size_of, parallelism_of, queues_in_force, spec_in_force

QUEUE = QueueSpec("q_paid_stream", Tier.PAID, Mode.STREAM, 20)
SIZED = QueueSpec("q_paid_stream", Tier.PAID, Mode.STREAM, 20, max_size=7)
NIGHT = """
[models.m]
provider = "openai"
name = "gpt"
input = ["text"]
[services.digest]
prompt = "Sum it up"
models = { free = ["m"] }
[queues.q_night]
tier = "free"
mode = "batch"
max_size = 3
"""
GIVEN = {"REDIS_URL": "redis://redis:6379/0"}


def settings(**variables: str) -> QueueSettings:
    """Those of an environment with these variables."""
    return load({**GIVEN, **variables}).queues


def test_slots_of_a_process_are_ordered_or_set_or_of_the_services_file() -> None:
    """In this order."""
    assert parallelism_of(QUEUE, settings()) == 20
    assert parallelism_of(QUEUE, settings(QUEUE_PARALLELISM_PAID_STREAM="3")) == 3
    assert parallelism_of(QUEUE, settings(QUEUE_PARALLELISM_PAID_STREAM="3"), ordered=2) == 2


def test_a_queue_is_full_at_what_was_ordered_or_the_services_file_says_or_is_set() -> None:
    """An order of 0 is an order: accept nothing."""
    assert max_size_of(QUEUE, settings()) == QueueSettings().max_size
    assert max_size_of(QUEUE, settings(QUEUE_MAX_SIZE="9")) == 9
    assert max_size_of(QUEUE, settings(QUEUE_MAX_SIZE="9", QUEUE_MAX_PAID_STREAM="8")) == 8
    assert max_size_of(SIZED, settings(QUEUE_MAX_PAID_STREAM="8")) == 7
    assert max_size_of(SIZED, settings(QUEUE_MAX_PAID_STREAM="8"), ordered=0) == 0


def test_a_model_has_its_own_limit_or_that_of_its_tier() -> None:
    """For each tier by itself."""
    limiter_settings = GuardSettings(model_paid=50, model_free=5)
    model = Model("m", "openai", "gpt", concurrency={Tier.PAID: 4})
    assert [limit_of(model, tier, limiter_settings) for tier in (Tier.PAID, Tier.FREE)] == [4, 5]


def test_a_daemon_reads_queues_that_there_are() -> None:
    """With the slots in force; a misspelt name is answered with the one that was meant."""
    catalog = ServiceCatalog(services={}, models={}, queues={QUEUE.name: QUEUE}, source="")
    assert spec_in_force(catalog, QUEUE.name, settings(QUEUE_PARALLELISM_PAID_STREAM="3")).parallelism == 3
    with pytest.raises(ConfigError, match=r"q_paid_steam.*q_paid_stream"):
        spec_in_force(catalog, "q_paid_steam", settings())


def test_relay_and_gateway_know_the_size_of_every_queue(tmp_path: Path) -> None:
    """Those of the services file and the six default ones."""
    file = tmp_path / "services.toml"
    file.write_text(NIGHT, "utf-8")
    found = queues_in_force(load({**GIVEN, "SERVICES_FILE": str(file), "QUEUE_MAX_SIZE": "9"}))
    assert {name: spec.max_size for name, spec in found.items()} == {**dict.fromkeys(found, 9), "q_night": 3}
    assert len(found) == 7
