"""What a model does not take, refused as the vendors refuse it, through the adapters over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from daemon.config import ProviderSettings
from daemon.config.types import SecretStr
from daemon.dev.fake_llm import FakeLLM
from daemon.domain.errors import Code, ModelUnavailable, ProviderError
from daemon.domain.model_io import Finished, ModelRequest
from daemon.ports import Provider
from daemon.providers.registry import Registry
from tests.conformance.stand_ins import Shape, StandIn


@pytest.fixture
async def strict() -> AsyncIterator[FakeLLM]:
    """A fake that knows the vendors' names only."""
    async with FakeLLM(tokens_per_s=2000, first_token_s=0.01, strict=True) as running:
        yield running


@pytest.fixture
async def provider(strict: FakeLLM) -> AsyncIterator[Provider]:
    """OpenAI's adapter for it."""
    found = StandIn("fake", "openai", strict.url, 2.0).provider()
    yield found
    await found.aclose()


ASKED = ModelRequest("openai", "gpt-6-luna", "", "Hello", temperature=0.3, max_output_tokens=50, user_tag="u")


async def test_a_refused_temperature_is_named_and_the_call_without_it_succeeds(provider: Provider) -> None:
    """The caller decides about the second call; the adapter only says what was refused."""
    with pytest.raises(ProviderError) as raised:
        [piece async for piece in provider.generate(ASKED)]
    assert (raised.value.code, raised.value.parameter) == (Code.LLM_REFUSED, "temperature")
    *_, last = [piece async for piece in provider.generate(replace(ASKED, omit=frozenset({"temperature"})))]
    assert isinstance(last, Finished)


@pytest.fixture
async def body() -> AsyncIterator[list[dict[str, Any]]]:
    """The bodies of calls that arrived at ADDRESS, as any vendor would read them."""
    bodies: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({"error": {"message": "enough", "code": 500}}, status=500)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    bodies.append({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"})
    yield bodies
    await runner.cleanup()


@pytest.mark.parametrize(
    ("provider_name", "model", "fields"),
    [
        ("deepseek", "deepseek-flash", {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}),
        ("openai", "gpt-6-luna", {"reasoning_effort": "low"}),
        ("gemini", "gemini-3.5-flash-lite", {"thinking_level": "LOW"}),
    ],
)
async def test_reasoning_is_sent_in_the_vendor_s_words(
    body: list[dict[str, Any]], provider_name: str, model: str, fields: dict[str, Any]
) -> None:
    """As it goes over the wire; without the setting, and once it was refused, nothing of it is sent."""
    told: dict[str, Any] = {f"{provider_name}_api_key": SecretStr("k"), f"{provider_name}_base_url": body[0]["url"]}
    registry = Registry(ProviderSettings(**told))
    request = ModelRequest(provider_name, model, "", "Hello", reasoning="low")
    for asked in (request, replace(request, omit=frozenset({"reasoning"})), replace(request, reasoning=None)):
        with pytest.raises(ProviderError):
            [piece async for piece in registry.get(provider_name).generate(asked)]
    sent = [
        b.get("generationConfig", {}).get("thinkingConfig", {}) if provider_name == "gemini" else b for b in body[1:]
    ]
    assert {name: sent[0][name] for name in fields} == fields
    for without in sent[1:]:
        assert not without.keys() & {"thinking", "reasoning_effort", "thinking_level", "thinking_budget"}
    await registry.aclose()


@pytest.mark.parametrize(("shape", "model"), [("openai", "gpt-6.2-sol"), ("gemini", "gemini-3.8-flash")])
async def test_a_model_that_cannot_stop_thinking_says_so(strict: FakeLLM, shape: Shape, model: str) -> None:
    """OpenAI names the parameter, Gemini writes `Thinking level` in its message only."""
    provider = StandIn("fake", shape, strict.url, 2.0).provider()
    asked = ModelRequest(shape, model, "", "Hello", reasoning="off")
    with pytest.raises(ProviderError) as raised:
        [piece async for piece in provider.generate(asked)]
    assert raised.value.parameter == "reasoning"
    *_, last = [piece async for piece in provider.generate(replace(asked, omit=frozenset({"reasoning"})))]
    assert isinstance(last, Finished)
    await provider.aclose()


@pytest.mark.parametrize("name", ["gpt-5-mini", "deepseek-chat"])
async def test_a_name_that_is_gone_is_an_unknown_model(provider: Provider, name: str) -> None:
    """So a fallback may serve; no parameter is to blame."""
    with pytest.raises(ModelUnavailable) as raised:
        [piece async for piece in provider.generate(replace(ASKED, model_name=name))]
    assert (raised.value.reason, raised.value.parameter) == ("UNKNOWN_MODEL", "")
