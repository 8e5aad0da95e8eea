"""Providers by name, opened on first use with the keys of the settings. `processes.consumer` makes one."""

from __future__ import annotations

from daemon.config import ProviderSettings
from daemon.domain.errors import ConfigError
from daemon.ports import Provider
from daemon.providers.adapter import Connection

#: provider -> the setting that holds its key; also the order of listings
KEY_NAMES = {"deepseek": "DEEPSEEK_API_KEY", "openai": "OPENAI_API_KEY", "gemini": "GEMINI_API_KEY"}


class Registry:
    """One adapter for each provider that is used."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._open: dict[str, Provider] = {}

    @property
    def available(self) -> tuple[str, ...]:
        """The providers whose key is set."""
        return tuple(name for name in KEY_NAMES if self._key(name))

    def get(self, provider: str) -> Provider:
        """The adapter, made on first use; no connection and no SDK import yet. Raises `ConfigError`."""
        found = self._open.get(provider)
        if found is None:
            found = self._open[provider] = self._make(provider)
        return found

    async def aclose(self) -> None:
        """Close all pools; may be called twice."""
        opened, self._open = self._open, {}
        for provider in opened.values():
            await provider.aclose()

    def _key(self, provider: str) -> str:
        secret = getattr(self._settings, f"{provider}_api_key")
        return secret.get_secret_value() if secret is not None else ""

    def _make(self, provider: str) -> Provider:
        if provider not in KEY_NAMES:
            raise ConfigError([f"provider: {provider!r} is not known; allowed: {', '.join(KEY_NAMES)}"])
        key = self._key(provider)
        if not key:
            raise ConfigError([f"{KEY_NAMES[provider]}: not set, but a model of provider {provider!r} is used"])
        s = self._settings
        connection: Connection = {
            "api_key": key,
            "base_url": getattr(s, f"{provider}_base_url"),
            "connections_max": s.connections_max,
            "connect_timeout_s": s.connect_timeout_s,
        }
        if provider == "gemini":
            from daemon.providers.gemini import Gemini

            return Gemini(**connection)
        from daemon.providers.openai_compatible import DIALECTS, OpenAICompatible

        return OpenAICompatible(DIALECTS[provider], **connection)
