"""A relay as users run it: its own process, real HTTP, signed calls."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from daemon.dev.embedded import free_port
from daemon.dev.fake_qstash.signing import sign
from tests import last_words
from tests.e2e.processes import ROOT as ROOT
from tests.e2e.processes import Process, Spawn, spawn

PUBLIC: Final = "https://relay.example.com"  #: never reached: what QStash signed, not where we call
CURRENT: Final = "sig_current_of_the_tests"
NEXT: Final = "sig_next_of_the_tests"
#: as installed for production: the terminal package of the demo, which the log would find, is not there
PRODUCTION: Final = (
    "-c",
    "import sys; sys.modules['rich'] = None; sys.argv[1:] = ['relay']; import daemon.__main__ as m; m.main()",
)
READY_S: Final = 60.0  #: it takes half a second; a deadline says that something never came
UNMEASURED: Final = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}  #: what counts lines needs memory
GOOD: Final = {"taskId": "t1", "queueId": "q_paid_stream", "userId": "u1", "variables": {"a": "canary-4711"}}


@dataclass(frozen=True)
class Reply:
    """What a call got."""

    status: int
    headers: dict[str, str]
    raw: bytes
    seconds: float

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object in it."""
        found = json.loads(self.raw)
        assert isinstance(found, dict)
        return found


class Relay:
    """One running relay."""

    def __init__(self, process: Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """Its lines so far, those of one event or all."""
        lines = [json.loads(line) for line in self.words().splitlines()]
        return [line for line in lines if event in ("", line["event"])]

    def words(self) -> str:
        """All it said, whatever it is."""
        return self._log.read_text("utf-8")

    async def call(
        self, path: str = "/api/worker/stream/resume-review", body: Any = GOOD, *, key: str = CURRENT, **headers: str
    ) -> Reply:
        """POST as QStash does. Header names take `_` for `-`; one that is empty is not sent."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = PUBLIC + path.partition("?")[0]
        sent = {"Upstash-Signature": sign(key, url=url, body=raw, issued_at=time.time())}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._request("POST", path, {n: v for n, v in sent.items() if v}, raw)

    async def get(self, path: str) -> Reply:
        """GET, not signed."""
        return await self._request("GET", path, {}, b"")

    async def _request(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> Reply:
        began = time.monotonic()
        url = f"http://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
            session.request(method, url, data=io.BytesIO(raw), headers=headers) as response,
        ):
            answer = await response.read()
            return Reply(response.status, dict(response.headers), answer, time.monotonic() - began)

    def stop(self, within_s: float = 20) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


def environment(redis_url: str, port: int, **more: str) -> dict[str, str]:
    """What a relay needs, and nothing of ours. A setting that is empty is left out."""
    mine = {
        "REDIS_URL": redis_url,
        "WORKER_BASE_URL": PUBLIC,
        "QSTASH_CURRENT_SIGNING_KEY": f"sig_other_region,{CURRENT}",
        "QSTASH_NEXT_SIGNING_KEY": NEXT,
        "RELAY_PORT": str(port),
        "QSTREAMD_LOG_FORMAT": "json",
    }
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"} or name.startswith("COV")}
    return {name: value for name, value in (kept | mine | more).items() if value}


@contextmanager
def running_relay(
    redis_url: str,
    spawned_by: Spawn = spawn,
    /,
    *,
    wait: str = "/healthz/ready",
    command: Sequence[str] = ("-m", "daemon", "relay"),
    **more: str,
) -> Iterator[Relay]:
    """A relay that answers `wait` with 200; killed at the end if it still runs."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        process = spawned_by(command, environment(redis_url, port, **more), log)
        relay = Relay(process, port, log)
        last_words.of(f"relay on {port}", relay.words)
        try:
            _wait(relay, wait)
            yield relay
        finally:
            if process.poll() is None:
                relay.stop()
            words = relay.words()  # the log goes now, and the test may still fail
            last_words.of(f"relay on {port}", lambda: words)


def _wait(relay: Relay, path: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        words = relay.words()
        assert relay.process.poll() is None, f"the relay ended with {relay.process.poll()}:\n{words}"
        assert time.monotonic() < deadline, f"the relay is not ready:\n{words}"
        time.sleep(0.005)
