"""Providers by name, opened on first use with the keys of the settings. `processes.consumer` makes one."""

from __future__ import annotations

from daemon.config import ProviderSettings
from daemon.domain.errors import ConfigError
from daemon.ports import Provider
from daemon.providers.adapter import Connection
from daemon.services.catalog import DIRECT

#: provider -> the setting that holds its key; also the order of listings
KEY_NAMES = {"deepseek": "DEEPSEEK_API_KEY", "openai": "OPENAI_API_KEY", "gemini": "GEMINI_API_KEY"}


def way_out(settings: ProviderSettings, provider: str, proxy: str = "") -> str:
    """The proxy before a provider, "" for none: the model's, else QSTREAMD_HTTPS_PROXY where its address is https."""
    if proxy:
        return "" if proxy == DIRECT else proxy
    secure = str(getattr(settings, f"{provider}_base_url")).startswith("https://")
    return settings.https_proxy.get_secret_value() if settings.https_proxy is not None and secure else ""


class Registry:
    """One adapter for each provider, and for each proxy before it, that is used."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._open: dict[tuple[str, str], Provider] = {}

    @property
    def available(self) -> tuple[str, ...]:
        """The providers whose key is set."""
        return tuple(name for name in KEY_NAMES if self._key(name))

    def get(self, provider: str, proxy: str = "") -> Provider:
        """The adapter, made on first use; no connection and no SDK import yet. Raises `ConfigError`.

        `proxy`: the model's own way out, see `way_out`.
        """
        found = self._open.get((provider, proxy))
        if found is None:
            found = self._open[provider, proxy] = self._make(provider, proxy)
        return found

    async def aclose(self) -> None:
        """Close all pools; may be called twice."""
        opened, self._open = self._open, {}
        for provider in opened.values():
            await provider.aclose()

    def _key(self, provider: str) -> str:
        secret = getattr(self._settings, f"{provider}_api_key")
        return secret.get_secret_value() if secret is not None else ""

    def _make(self, provider: str, proxy: str) -> Provider:
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
            "proxy": way_out(s, provider, proxy),
        }
        if provider == "gemini":
            from daemon.providers.gemini import Gemini

            return Gemini(**connection)
        from daemon.providers.openai_compatible import DIALECTS, OpenAICompatible

        return OpenAICompatible(DIALECTS[provider], **connection)
