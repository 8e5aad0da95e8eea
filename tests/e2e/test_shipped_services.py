"""The six services of the shipped file, in front of models that refuse what the vendors' models refuse."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import daemon
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(120)

SHIPPED = Path(daemon.__file__).parent / "services_default" / "services.toml"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGES = [{"data": PIXEL, "mimeType": "image/png"}]
TEXTS = {"resume": "Ten years at sea.", "job": "Deck officer wanted.", "role": "officer"}
#: service, queue, images
TASKS: list[tuple[str, str, list[dict[str, str]]]] = [
    ("resume-review", "q_paid_stream", []),
    ("cover-letter", "q_paid_stream", []),
    ("job-match", "q_paid_batch", []),
    ("interview-questions", "q_paid_batch", []),
    ("job-ad-reader", "q_paid_vision", IMAGES),
    ("portfolio-feedback", "q_paid_vision", IMAGES),
]
QUEUES = "q_paid_stream,q_paid_batch,q_paid_vision"


@pytest.fixture
async def strict_world(redis_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Its models know no name that the vendors do not know."""
    async with World(redis_url, postgres_url, tmp_path, strict=True) as world:
        yield world


async def run_all(world: World, services: Path, **more: Any) -> dict[str, dict[str, Any]]:
    """The ends of one task of each service."""
    urls = {"DEEPSEEK_BASE_URL": world.llm.openai_url, "GEMINI_BASE_URL": world.llm.gemini_url}
    given = {"DEEPSEEK_API_KEY": "sk-deepseek", "GEMINI_API_KEY": "gemini", "SERVICES_FILE": str(services), **urls}
    await world.start_relay(SERVICES_FILE=str(services))
    await world.start_daemon(QUEUES, **given)
    for service, queue, images in TASKS:
        await world.publish(service, service, queue=queue, variables=TEXTS, images=images or None, **more)
    return {service: await world.ended(service, within_s=40) for service, *_ in TASKS}


def told(ends: dict[str, dict[str, Any]]) -> dict[str, str]:
    """`done`, or the code of the end."""
    return {service: end.get("code", end["type"]) for service, end in ends.items()}


ALL_DONE = {service: "done" for service, *_ in TASKS}


async def test_every_shipped_service_ends_done(strict_world: World) -> None:
    """At the first call: every name exists, and no parameter is refused."""
    assert told(await run_all(strict_world, SHIPPED)) == ALL_DONE
    assert len(strict_world.llm.calls) == len(TASKS)
    assert not strict_world.llm.refused


@pytest.mark.parametrize("model", ["gpt", "deepseek-flash", "gemini-flash"])
async def test_each_model_serves_the_services_that_take_it(strict_world: World, model: str, tmp_path: Path) -> None:
    """Fallbacks are models too: each one alone, for every service."""
    services = tmp_path / "one.toml"
    source = SHIPPED.read_text("utf-8")
    images = model != "deepseek-flash"
    source = re.sub(
        r"^models = .*$", f'models = {{ paid = ["{model}"], free = ["{model}"] }}', source, flags=re.MULTILINE
    )
    if not images:
        source = source.replace('input = ["text", "image"]\nmodels', 'input = ["text"]\nmodels')
    services.write_text(source, "utf-8")
    for schema in SHIPPED.parent.glob("*.json"):
        (tmp_path / schema.name).write_bytes(schema.read_bytes())
    ends = told(await run_all(strict_world, services))
    assert {service: ends[service] for service, _, pictures in TASKS if images or not pictures} == {
        service: "done" for service, _, pictures in TASKS if images or not pictures
    }
    assert not strict_world.llm.refused


async def test_a_temperature_that_a_model_refuses_costs_one_further_request(
    strict_world: World, tmp_path: Path
) -> None:
    """Without `sampling = false` the model says no once, and is not sent one again."""
    services = tmp_path / "sampling.toml"
    source = re.sub(r"^sampling = false.*\n", "", SHIPPED.read_text("utf-8"), flags=re.MULTILINE)
    assert source != SHIPPED.read_text("utf-8")
    services.write_text(source, "utf-8")
    for schema in SHIPPED.parent.glob("*.json"):
        (tmp_path / schema.name).write_bytes(schema.read_bytes())
    assert told(await run_all(strict_world, services)) == ALL_DONE
    assert strict_world.llm.refused
    refused = len(strict_world.llm.refused)
    await strict_world.publish("again", "cover-letter", variables=TEXTS)
    assert (await strict_world.ended("again"))["type"] == "done"
    assert len(strict_world.llm.refused) == refused
    assert "parameter.refused" in strict_world.daemons[0].words()
