"""Two calls of each model, through the daemon's own adapters: one streamed, one for JSON.

A parameter that a model refuses is left out of a second call, as the daemon does it, and named.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from daemon.admin.checkup.verdict import Peer, of_answer, of_exception, verdict
from daemon.admin.trial.plan import Planned
from daemon.admin.trial.recorder import Exchange, Recorder
from daemon.admin.trial.result import UNREACHED, Result, fails, flawed, of_verdict, skipped, works
from daemon.config import ProviderSettings
from daemon.domain.errors import Code, ProviderError
from daemon.domain.events import Channel
from daemon.domain.model_io import Finished, ModelRequest
from daemon.pipeline.model_request import for_model
from daemon.pipeline.refused_parameters import RefusedParameters
from daemon.ports import Clock
from daemon.providers.registry import Registry, way_out
from daemon.services import cost
from daemon.services.catalog import DIRECT

CALL_S: Final = 90.0
TRIES_MAX: Final = 4  #: of one call: each leaves out one more parameter
HEAD_BYTES: Final = 64 * 1024
_TEXT: Final = "Say in one short sentence what a queue is. Answer with that sentence only."
_JSON: Final = 'Answer with this JSON object and nothing else: {"works": true}'
_NAMES: Final = {"stream": "streamed call", "json": "JSON call"}
#: after one of these no call of the same provider over the same way can go better
_SAME_FOR_ALL: Final = UNREACHED | {"key", "region", "quota"}
_UNREADABLE: Final = "send the transcript back: the adapter can't read this answer"


class Calls:
    """Calls the models of a plan one after the other; `transcripts` are what came back, by file name."""

    def __init__(self, settings: ProviderSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._refused = RefusedParameters()
        self._hopeless: dict[tuple[str, str], str] = {}  #: provider and way out -> why
        self.transcripts: list[tuple[str, Exchange]] = []

    async def run(self, planned: Sequence[Planned]) -> AsyncGenerator[Result, None]:
        """Results as they come."""
        for entry in planned:
            if not entry.output_tokens:
                yield skipped("model", entry.model.id, entry.why)
                continue
            provider = entry.model.provider
            way = way_out(self._settings, provider, entry.model.proxy)
            base = getattr(self._settings, f"{provider}_base_url")
            async with Recorder(base, way) as recorder:
                told: dict[str, Any] = {f"{provider}_base_url": recorder.url, "https_proxy": None}
                registry = Registry(self._settings.model_copy(update=told))
                try:
                    for kind in _NAMES:
                        what = f"{entry.model.id} {_NAMES[kind]}"
                        if why := self._hopeless.get((provider, way)):
                            yield skipped("model", what, why)
                            continue
                        peer = Peer(provider, urlsplit(base).hostname or "", proxy=bool(way))
                        result = await self._call(entry, kind, what, recorder, registry, peer)
                        if result.state == "fails" and result.kind in _SAME_FOR_ALL:
                            self._hopeless[provider, way] = f"{provider} would fail the same way: {result.kind}"
                        yield result
                finally:
                    await registry.aclose()

    async def _call(
        self, entry: Planned, kind: str, what: str, recorder: Recorder, registry: Registry, peer: Peer
    ) -> Result:
        model = entry.model
        asked = ModelRequest(
            provider="", model_name="", system="", prompt=_JSON if kind == "json" else _TEXT, stream=kind == "stream",
            json_output=kind == "json", max_output_tokens=entry.output_tokens, temperature=0.3,
        )  # fmt: skip
        for _ in range(TRIES_MAX):
            request = for_model(asked, model, self._refused.of(model))
            result, error = await self._once(entry, request, what, recorder, registry, peer)
            if error is None or error.parameter == "max_output_tokens":  # without that limit a call has no price
                break
            if not self._refused.add(model, request, error):
                break
        self._keep(entry, kind, recorder)
        return result

    async def _once(
        self, entry: Planned, request: ModelRequest, what: str, recorder: Recorder, registry: Registry, peer: Peer
    ) -> tuple[Result, ProviderError | None]:
        began = self._clock.monotonic()
        texts: list[str] = []
        first_s = 0.0
        finished: Finished | None = None
        recorder.exchanges.clear()
        try:
            async with (
                asyncio.timeout(CALL_S),
                aclosing(registry.get(peer.provider, DIRECT).generate(request)) as found,
            ):
                async for piece in found:
                    if isinstance(piece, Finished):
                        finished = piece
                    elif piece.channel is Channel.TEXT:
                        first_s = first_s or self._clock.monotonic() - began
                        texts.append(piece.text)
        except TimeoutError:
            late = verdict("network", f"{peer.host} did not end its answer within {CALL_S:.0f} s", peer)
            return of_verdict("model", what, late), None
        except ProviderError as error:
            return self._refusal(what, error, recorder, peer), error
        assert finished is not None
        return self._answered(entry, request, what, "".join(texts), finished, first_s), None

    def _refusal(self, what: str, error: ProviderError, recorder: Recorder, peer: Peer) -> Result:
        exchange = recorder.exchanges[-1] if recorder.exchanges else Exchange()
        if exchange.failure is not None and not exchange.status:
            return of_verdict("model", what, of_exception(exchange.failure, peer))
        if error.parameter:
            told = f"the model refuses `{error.parameter}` ({error.detail})"
            return of_verdict("model", what, verdict("parameter", told, peer, parameter=error.parameter))
        found = of_answer(exchange.status, exchange.content_type, exchange.body[:HEAD_BYTES], peer)
        if found is not None:
            return of_verdict("model", what, found)
        if error.code is Code.LLM_BAD_OUTPUT:
            text = f"it answers, but without a word: {error.detail}"
            cure = "its thoughts used the few tokens of this call up: set `reasoning` lower, or try --model alone"
            return flawed("model", what, text, cure, "empty")
        if exchange.failure is not None:
            return of_verdict("model", what, of_exception(exchange.failure, peer))
        return fails("model", what, f"it answered, but we could not use it: {error.detail}", _UNREADABLE, "answer")

    def _answered(
        self, entry: Planned, request: ModelRequest, what: str, text: str, finished: Finished, first_s: float
    ) -> Result:
        used = cost(entry.model, finished.usage, self._clock.time())
        spent = "cost unknown" if used.cost_usd is None else f"${used.cost_usd:.5f}"
        counted = "unknown" if used.output_tokens is None else str(used.output_tokens)
        told = f"first text after {first_s:.1f} s, {counted} tokens, {spent}"
        refused = sorted(self._refused.of(entry.model) & request.omit)
        if request.json_output and not _is_json(text):
            cut = finished.reason == "length"
            why = "was cut at this call's limit" if cut else "is not JSON"
            result = flawed("model", what, f"{told}; the answer {why}", "" if cut else _UNREADABLE, "answer")
        elif refused:
            names = ", ".join(refused)
            cure = f"docs/guides/models.md: set `sampling` or `reasoning` of [models.{entry.model.id}]"
            result = flawed("model", what, f"{told}; it refuses {names}, so that was left out", cure, "parameter")
        else:
            cut_note = "; cut at this call's limit" if finished.reason == "length" else ""
            result = works("model", what, told + cut_note)
        return replace(result, cost_usd=used.cost_usd)

    def _keep(self, entry: Planned, kind: str, recorder: Recorder) -> None:
        for exchange in recorder.exchanges[-1:]:
            if exchange.status:
                self.transcripts.append((f"{entry.model.provider}-{entry.model.id}-{kind}.http", exchange))


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    return True
