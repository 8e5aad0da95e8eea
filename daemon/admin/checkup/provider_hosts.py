"""Are the providers near, do they take our keys, do they know the models? Lists models, which costs nothing."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
import msgspec

from daemon.admin.checkup.finding import Finding, error, info, ok, round_trips, warning
from daemon.config import ProviderSettings, Settings
from daemon.ports import Clock
from daemon.services import ServiceBook

ASK_S: Final = 15.0
ROUNDS: Final = 3
FAR_MS: Final = 500.0


async def check(settings: Settings, book: ServiceBook, clock: Clock) -> list[Finding]:
    """One finding at least for each provider that the services file uses and that has a key."""
    found: list[Finding] = []
    for provider in dict.fromkeys(model.provider for model in book.models.values()):
        key = getattr(settings.providers, f"{provider}_api_key")
        if key is None:
            continue  # said among the settings
        names = [model.name for model in book.models.values() if model.provider == provider]
        found += await _provider(provider, settings.providers, key.get_secret_value(), names, clock)
    return found


async def _provider(
    provider: str, settings: ProviderSettings, key: str, names: list[str], clock: Clock
) -> list[Finding]:
    url, headers = _listing(provider, settings, key)
    answers: list[tuple[int, Any]] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S), headers=headers) as session:

        async def ask() -> None:
            async with session.get(url, allow_redirects=False) as answer:
                raw = await answer.read()
                answers.append((answer.status, raw))

        try:
            median_ms = await round_trips(clock, ask, ROUNDS)
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            cure = f"is {provider.upper()}_BASE_URL right, and may this host reach it?"
            return [error(f"provider.{provider}", f"{provider} can't be reached ({type(failure).__name__})", cure)]
    return judge(provider, *answers[-1], median_ms, names)


def _listing(provider: str, settings: ProviderSettings, key: str) -> tuple[str, dict[str, str]]:
    if provider == "gemini":
        return f"{settings.gemini_base_url}/v1beta/models?pageSize=1000", {"x-goog-api-key": key}
    return f"{getattr(settings, f'{provider}_base_url')}/models", {"Authorization": f"Bearer {key}"}


def judge(provider: str, status: int, raw: bytes, median_ms: float, names: list[str]) -> list[Finding]:
    """What the provider's list says. Pure."""
    check_name, text = f"provider.{provider}", f"{provider} answers in {median_ms:.0f} ms (median of {ROUNDS})"
    if status in {400, 401, 403}:
        cure = f"take a new {provider.upper()}_API_KEY from the provider's console"
        return [error(check_name, f"{provider} refuses the key ({status})", cure)]
    if status != 200:
        return [warning(check_name, f"{text}, but with {status}", "look at the provider's status page; try again")]
    cure = "choose a region nearer to the provider if users watch the first token"
    near = ok(check_name, text) if median_ms <= FAR_MS else info(check_name, text, cure)
    known = _names(raw)
    if not known:
        return [near]
    missing = [name for name in names if name not in known]
    return [near, *(_unknown(check_name, provider, name) for name in missing)]


def _unknown(check_name: str, provider: str, name: str) -> Finding:
    return warning(
        check_name, f"{provider} does not list the model {name[:60]!r}", "correct `name` in the services file"
    )


def _names(raw: bytes) -> set[str]:
    """The models of a list in either dialect; empty when it is another form."""
    try:
        document = msgspec.json.decode(raw, type=dict[str, Any])
        entries = document.get("data") or document.get("models") or []
        return {str(e.get("id") or e.get("name", "")).removeprefix("models/") for e in entries}
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError):
        return set()
