"""Calls of providers through a forward proxy, as servers in China need one: the way out, and what fails on it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemon.config import ProviderSettings
from daemon.config.types import SecretStr
from daemon.dev.fake_llm import FakeLLM
from daemon.domain.errors import ProviderError
from daemon.domain.model_io import Delta, Finished, ModelRequest
from daemon.providers.registry import Registry
from tests.connect_proxy import ConnectProxy
from tests.tls import certificate, tls_before

NAME = "models.example.com"  # resolves nowhere: who reaches it went through the proxy
PROVIDERS = ("openai", "deepseek", "gemini")


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate for NAME that our transport trusts."""
    file = certificate(tmp_path, NAME)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=str(file)))
    return file


@pytest.fixture
async def proxy(fake: FakeLLM, trusted: Path) -> AsyncIterator[ConnectProxy]:
    """A proxy with a password that knows where NAME is."""
    async with tls_before(urlsplit(fake.url).port or 0, trusted) as port, ConnectProxy("s3cret-word") as running:
        running.to[f"{NAME}:443"] = ("127.0.0.1", port)
        yield running


def settings(https_proxy: str, url: str = f"https://{NAME}") -> ProviderSettings:
    told: dict[str, Any] = {f"{name}_api_key": SecretStr("test-key-0123") for name in PROVIDERS}
    told |= {f"{name}_base_url": url if name == "gemini" else f"{url}/v1" for name in PROVIDERS}
    return ProviderSettings(https_proxy=SecretStr(https_proxy) if https_proxy else None, connect_timeout_s=2, **told)


async def said(registry: Registry, name: str, *, proxy: str = "", stream: bool = True) -> str:
    """The whole text of one answer."""
    request = ModelRequest(name, "gpt-4o", "", "Tell me about queues.", stream=stream)
    *deltas, last = [piece async for piece in registry.get(name, proxy).generate(request)]
    assert isinstance(last, Finished)
    return "".join(d.text for d in deltas if isinstance(d, Delta))


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_proxy_of_the_settings_carries_every_provider(
    proxy: ConnectProxy, name: str, *, stream: bool
) -> None:
    registry = Registry(settings(proxy.url))
    assert await said(registry, name, stream=stream)
    assert await said(registry, name, stream=stream)
    assert set(proxy.asked) == {f"CONNECT {NAME}:443"}
    await registry.aclose()


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_model_s_own_proxy_wins(proxy: ConnectProxy, name: str) -> None:
    """Both live side by side: a provider's connections of one proxy are not used for another."""
    async with ConnectProxy() as other:
        registry = Registry(settings(other.url))
        other.answer = 502
        assert await said(registry, name, proxy=proxy.url)
        assert (len(proxy.asked), other.asked) == (1, [])
        with pytest.raises(ProviderError):
            await said(registry, name)
        await registry.aclose()


async def test_a_model_may_go_around_the_proxy(fake: FakeLLM, trusted: Path) -> None:
    """DeepSeek from China: direct, while the others go through the proxy."""
    async with tls_before(urlsplit(fake.url).port or 0, trusted) as port, ConnectProxy() as proxy:
        registry = Registry(settings(proxy.url, f"https://127.0.0.1:{port}"))
        assert await said(registry, "deepseek", proxy="direct")
        assert proxy.asked == []
        assert await said(registry, "openai")
        assert proxy.asked == [f"CONNECT 127.0.0.1:{port}"]
        await registry.aclose()


async def test_an_address_without_tls_is_for_this_network(fake: FakeLLM) -> None:
    """HTTPS_PROXY is about https; a model's own proxy is about that model."""
    async with ConnectProxy() as proxy:
        registry = Registry(settings(proxy.url, fake.url))
        assert await said(registry, "openai")
        assert proxy.asked == []
        assert await said(registry, "openai", proxy=proxy.url)
        assert proxy.asked == [f"POST {fake.url}/v1/chat/completions"]
        await registry.aclose()


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    ("trouble", "told"), [("password", "the proxy answered 407"), ("status", "the proxy answered 502"),
                          ("away", "ConnectError")],
)  # fmt: skip
async def test_what_the_proxy_refuses_is_told_apart(proxy: ConnectProxy, name: str, trouble: str, told: str) -> None:
    """And the password is in no error."""
    url = {"password": proxy.url.replace("s3cret-word", "wr0ng-word"), "away": "http://user:wr0ng-word@127.0.0.1:1"}
    proxy.answer = 502 if trouble == "status" else 0
    registry = Registry(settings(url.get(trouble, proxy.url)))
    with pytest.raises(ProviderError) as raised:
        await said(registry, name)
    assert told in raised.value.detail
    assert "word" not in repr(raised.value) + raised.value.detail
    await registry.aclose()
