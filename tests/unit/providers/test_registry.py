"""Providers by name."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from daemon.config import ProviderSettings
from daemon.config.types import SecretStr
from daemon.domain.errors import ConfigError
from daemon.providers.registry import KEY_NAMES, Registry


def settings(**keys: str) -> ProviderSettings:
    told: dict[str, Any] = {f"{name}_api_key": SecretStr(key) for name, key in keys.items()}
    return ProviderSettings(**told)


@pytest.mark.parametrize("name", list(KEY_NAMES))
async def test_an_adapter_is_made_once(name: str) -> None:
    registry = Registry(settings(**{name: "k"}))
    assert registry.available == (name,)
    assert registry.get(name) is registry.get(name)
    await registry.aclose()
    await registry.aclose()


@pytest.mark.parametrize("name", list(KEY_NAMES))
def test_a_missing_key_is_named(name: str) -> None:
    """The operator reads which variable to set."""
    with pytest.raises(ConfigError, match=KEY_NAMES[name]):
        Registry(settings()).get(name)
    with pytest.raises(ConfigError, match=KEY_NAMES[name]):
        Registry(settings(**{name: ""})).get(name)


def test_an_unknown_provider_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'claude'.*deepseek, openai, gemini"):
        Registry(settings()).get("claude")


def test_no_sdk_is_imported_before_the_first_call() -> None:
    """Half a second and 40 MB that a daemon without that vendor never pays."""
    code = (
        "import sys; from daemon.config import ProviderSettings as P; from daemon.config.types import SecretStr as S;"
        "from daemon.providers.registry import Registry as R;"
        "r = R(P(deepseek_api_key=S('k'), gemini_api_key=S('k'))); r.get('deepseek'); r.get('gemini');"
        "print([m for m in ('openai', 'google.genai', 'httpx2', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
