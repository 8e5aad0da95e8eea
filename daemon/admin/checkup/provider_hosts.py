"""Are the providers near, do they take our keys, do they still have the models? Lists models, which costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from daemon.admin.checkup.finding import Finding, error, info, ok, round_trips, warning
from daemon.admin.checkup.verdict import Peer, Verdict, of_answer, of_exception
from daemon.config import ProviderSettings, Settings
from daemon.ports import Clock
from daemon.providers.registry import way_out
from daemon.services import Model, ServiceCatalog

ASK_S: Final = 15.0
ROUNDS: Final = 3
FAR_MS: Final = 500.0


async def check(settings: Settings, catalog: ServiceCatalog, clock: Clock) -> list[Finding]:
    """One finding at least for each provider that the services file uses and that has a key.

    Models of one provider that go other ways out are asked for by each way.
    """
    found: list[Finding] = []
    ways = dict.fromkeys((model.provider, way_out(settings.providers, model.provider, model.proxy)) for model in
                         catalog.models.values())  # fmt: skip
    for provider, proxy in ways:
        key = getattr(settings.providers, f"{provider}_api_key")
        if key is None:
            continue  # said among the settings
        used = [m for m in catalog.models.values()
                if (m.provider, way_out(settings.providers, provider, m.proxy)) == (provider, proxy)]  # fmt: skip
        found += await _provider(provider, proxy, settings.providers, key.get_secret_value(), used, clock)
    return found


async def _provider(
    provider: str, proxy: str, settings: ProviderSettings, key: str, used: list[Model], clock: Clock
) -> list[Finding]:
    url, headers = listing(provider, settings, key)
    peer = Peer(provider, urlsplit(url).hostname or "", proxy=bool(proxy))
    answers: list[tuple[int, str, bytes]] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S), headers=headers) as session:

        async def ask() -> None:
            async with session.get(url, allow_redirects=False, proxy=proxy or None) as answer:
                raw = await answer.read()
                answers.append((answer.status, answer.content_type, raw))

        try:
            median_ms = await round_trips(clock, ask, ROUNDS)
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            return [_trouble(peer, of_exception(failure, peer))]
    status, content_type, raw = answers[-1]
    trouble = of_answer(status, content_type, raw, peer)
    if trouble is not None:
        return [_trouble(peer, trouble)]
    return findings_of(peer, status, raw, median_ms, [model.name for model in used], _today(clock))


def listing(provider: str, settings: ProviderSettings, key: str) -> tuple[str, dict[str, str]]:
    """Where a provider lists its models, and with which headers."""
    if provider == "gemini":
        return f"{settings.gemini_base_url}/v1beta/models?pageSize=1000", {"x-goog-api-key": key}
    return f"{getattr(settings, f'{provider}_base_url')}/models", {"Authorization": f"Bearer {key}"}


def _today(clock: Clock) -> date:
    return datetime.fromtimestamp(clock.time(), UTC).date()


def _trouble(peer: Peer, found: Verdict) -> Finding:
    """A warning for a fault of the provider, which ends by itself; an error for what an operator has to change."""
    passes = found.kind in ("provider", "rate_limit")
    return (warning if passes else error)(f"provider.{peer.provider}", found.text, found.cure)


def findings_of(
    peer: Peer, status: int, raw: bytes, median_ms: float, names: Iterable[str], today: date
) -> list[Finding]:
    """What the provider's list says of the models that we use. Pure."""
    check_name = f"provider.{peer.provider}"
    text = f"{peer.provider} answers in {median_ms:.0f} ms (median of {ROUNDS})"
    if status != 200:
        return [warning(check_name, f"{text}, but with {status}", "look at the provider's status page; try again")]
    cure = "choose a region nearer to the provider if users watch the first token"
    near = ok(check_name, text) if median_ms <= FAR_MS else info(check_name, text, cure)
    listed = _listed(raw)
    if not listed:
        return [near]
    return [near, *(f for name in dict.fromkeys(names) for f in _model(check_name, peer, name, listed, today))]


def _model(check_name: str, peer: Peer, name: str, listed: Mapping[str, date | None], today: date) -> list[Finding]:
    cure = (
        "put a successor's `name` under the same modelId, and reload: docs/guides/models.md#when-a-model-is-shut-down"
    )
    if name not in listed:
        text = f"{peer.provider} does not list the model {name[:60]!r}: it is gone, or was never there"
        return [warning(check_name, text, f"correct `name` in the services file; else {cure}")]
    ends = listed[name]
    if ends is None:
        return []
    left = (ends - today).days
    when = f"in {left} days" if left > 0 else "today" if left == 0 else f"{-left} days ago"
    found = error if left <= 0 else warning
    return [
        found(check_name, f"{peer.provider} shuts the model {name[:60]!r} down on {ends.isoformat()}: {when}", cure)
    ]


def _listed(raw: bytes) -> dict[str, date | None]:
    """The models of a list in either dialect with their last day; empty when it is another form."""
    try:
        document = msgspec.json.decode(raw, type=dict[str, Any])
        entries = document.get("data") or document.get("models") or []
        return {
            str(e.get("id") or e.get("name", "")).removeprefix("models/"): _date(
                e.get("shutdown_date") or e.get("shutdownDate")
            )
            for e in entries
        }
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError):
        return {}


def _date(value: object) -> date | None:
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        return None
