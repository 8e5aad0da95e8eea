"""What a model does not take, refused as the vendors refuse it, through the adapters over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from daemon.dev.fake_llm import FakeLLM
from daemon.domain.errors import Code, ModelClosed, ProviderError
from daemon.domain.model_io import Finished, ModelRequest
from daemon.ports import Provider
from tests.conformance.stand_ins import StandIn


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


@pytest.mark.parametrize("name", ["gpt-5-mini", "deepseek-chat"])
async def test_a_name_that_is_gone_is_an_unknown_model(provider: Provider, name: str) -> None:
    """So a fallback may serve; no parameter is to blame."""
    with pytest.raises(ModelClosed) as raised:
        [piece async for piece in provider.generate(replace(ASKED, model_name=name))]
    assert (raised.value.reason, raised.value.parameter) == ("UNKNOWN_MODEL", "")
