"""Our daemon, whole, with a provider that answers at once (or waits `SLEEP_S`) instead of a vendor.

Everything else is what production runs: guards, claim and result in Postgres, events, leases, fenced ack. An attempt
counts as ended when its entry is acked.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator

import uvloop

from bench.recorder import Recorder
from daemon import config
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished, ModelRequest, Piece
from daemon.observability.logging import begin
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import Outcome
from daemon.ports import Provider
from daemon.processes.consumer import Daemon
from daemon.processes.lifecycle import Signals, collect_rarely

_TEXT = Delta(Channel.TEXT, "ok")
_END = Finished("stop", Usage(input_tokens=11, cached_input_tokens=0, output_tokens=1, reasoning_tokens=0), "bench")


class Instant:
    """A vendor without a network. The prompt is the task's number."""

    def __init__(self, recorder: Recorder, sleep_s: float) -> None:
        self._recorder = recorder
        self._sleep_s = sleep_s

    async def prepare(self) -> None:
        """Nothing to load."""

    async def generate(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """The answer."""
        place = self._recorder.begin(int(request.prompt)) if self._sleep_s else None
        if self._sleep_s:
            await asyncio.sleep(self._sleep_s)
        yield _TEXT
        yield _END
        if place is not None:
            self._recorder.end(place)

    async def aclose(self) -> None:
        """Nothing to close."""


class BenchDaemon(Daemon):
    """The daemon with that provider; without a wait, what is counted is attempts whose entry is settled."""

    def attach(self, recorder: Recorder, sleep_s: float) -> None:
        """Before `run`."""
        self._recorder = recorder
        self._instant: Provider = Instant(recorder, sleep_s)
        self._counts = not sleep_s

    def _provider(self, name: str, proxy: str) -> Provider:
        return self._instant

    async def _attempt(self, hold: InFlight) -> Outcome:
        outcome = await super()._attempt(hold)
        if self._counts:
            self._recorder.count()
        return outcome


async def run(queues: list[str]) -> None:
    settings = config.load(role="daemon")
    begin(settings)
    collect_rarely()
    daemon = BenchDaemon(settings, queues)
    daemon.attach(Recorder(), float(os.environ.get("SLEEP_S", "0")))
    with Signals(on_stop=daemon.stop, on_force_stop=daemon.force_stop):
        await daemon.run()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1].split(",")))
