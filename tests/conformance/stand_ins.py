"""The model servers that the adapters are judged by: our fake, and two that others wrote.

`llmock` is a Python package of the development set; `aimock` comes from npm, by the lock file in `js/`, into a cache.
Each is started as a process of its own on a free port and told over HTTP, or by the prompt, how to fail.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from daemon.domain.model_io import ModelRequest
from daemon.ports import Provider
from daemon.providers.gemini import Gemini
from daemon.providers.openai_compatible import DIALECTS, OpenAICompatible

Shape = Literal["openai", "gemini"]
JS: Final = Path(__file__).parent / "js"
READY_S: Final = 20.0
INSTALL_S: Final = 50.0

#: trouble -> what each server calls it
FAKE: Final = {
    "rate_limit": "429-after-2", "server_error": "500", "unavailable": "503", "bad_request": "400", "key": "401",
    "unknown_model": "404", "quota": "quota", "cut": "cut", "hang_up": "reset", "truncated": "no-finish",
    "garbled": "bad-json", "stall": "stall-mid", "refused": "blocked-mid", "length": "length", "page": "garbage",
    "refused_prompt": "blocked", "empty": "empty", "no_resources": "overloaded", "error_event": "error-mid",
}  # fmt: skip
LLMOCK: Final[dict[str, dict[str, Any]]] = {
    "rate_limit": {"type": "fail", "status": 429, "retry_after": 2}, "server_error": {"type": "fail", "status": 500},
    "unavailable": {"type": "fail", "status": 503}, "bad_request": {"type": "fail", "status": 400},
    "key": {"type": "fail", "status": 401}, "unknown_model": {"type": "fail", "status": 404},
    "cut": {"type": "stream_fault", "kind": "disconnect", "after_chunks": 2},
    "truncated": {"type": "stream_fault", "kind": "truncate", "after_chunks": 2},
    "garbled": {"type": "stream_fault", "kind": "malformed", "after_chunks": 2},
    "stall": {"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": 30},
    "length": {"type": "reply", "text": "This much was said.", "finish_reason": "length"},
    "refused": {"type": "reply", "text": "This much was said.", "finish_reason": "content_filter"},
}  # fmt: skip
AIMOCK: Final = ("rate_limit", "server_error", "unavailable", "bad_request", "key", "unknown_model", "cut", "hang_up",
                 "garbled", "refused", "length")  # fmt: skip


@dataclass(frozen=True)
class StandIn:
    """One server speaking one shape."""

    server: Literal["fake", "llmock", "aimock"]
    shape: Shape
    url: str  #: without a version or a vendor's prefix
    retry_after_s: float  #: what it names with a 429
    counts: bool = True  #: whether it reports usage

    def provider(self, *, connections_max: int = 500) -> Provider:
        """The adapter for this server, new."""
        base = f"{self.url}/gemini" if (self.server, self.shape) == ("llmock", "gemini") else self.url
        told: dict[str, Any] = {
            "api_key": "test-key-0123", "connections_max": connections_max, "connect_timeout_s": 2.0
        }  # fmt: skip
        if self.shape == "gemini":
            return Gemini(base_url=base, **told)
        return OpenAICompatible(DIALECTS["openai"], base_url=f"{base}/v1", **told)

    async def request(self, trouble: str = "", *, stream: bool = True, **changes: Any) -> ModelRequest:
        """A request that this server answers with the trouble."""
        model, prompt = "gpt-4o" if self.shape == "openai" else "gemini-2.5-flash", "Tell me about queues."
        if trouble and self.server == "fake":
            model = f"fault-{FAKE[trouble]}"
        elif trouble and self.server == "llmock":
            behaviour = {**LLMOCK[trouble], "match": {"provider": self.shape}}
            await asyncio.to_thread(_post, f"{self.url}/_llmock/scenario", {"behaviors": [behaviour]})
        elif trouble:
            prompt = f"trouble: {trouble}"
        told: dict[str, Any] = {
            "provider": self.shape, "model_name": model, "system": "You are brief.", "prompt": prompt, "stream": stream
        }  # fmt: skip
        return ModelRequest(**(told | changes))


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - loopback
        answer.read()


# --- processes --------------------------------------------------------------------------------------------------


@contextmanager
def llmock() -> Iterator[str]:
    """The URL of a running llmock."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "llmock.cli", "serve", "--port", str(port), "--log-level", "warning",
        "--stream-chunk-delay-ms", "5",
    ]  # fmt: skip
    with _process(command) as (process, _):
        url = f"http://127.0.0.1:{port}"
        _wait_ready(process, lambda: _answers(f"{url}/health"))
        yield url


@contextmanager
def aimock() -> Iterator[str]:
    """The URL of a running aimock. Skips the test where node or the package can't be had."""
    command = [
        str(shutil.which("node")), str(_installed() / "@copilotkit" / "aimock" / "dist" / "cli.js"),
        "--port", "0", "--fixtures", str(JS / "aimock_fixtures.json"), "--latency", "5",
    ]  # fmt: skip
    with _process(command) as (process, output):
        listening = _wait_ready(process, lambda: re.search(r"http://127\.0\.0\.1:\d+", output.read_text()))
        yield listening.group()


@contextmanager
def _process(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process with its own group, gone when the block ends; its output goes to a file."""
    with tempfile.TemporaryDirectory() as home:
        output = Path(home) / "output"
        with output.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=home, start_new_session=True)
        try:
            yield process, output
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], ready: Any) -> Any:
    deadline = time.monotonic() + READY_S
    while not (answer := ready()):
        assert process.poll() is None, f"the stand-in ended with {process.returncode}"
        assert time.monotonic() < deadline, f"the stand-in was not ready within {READY_S:.0f} s"
        time.sleep(0.02)
    return answer


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _installed() -> Path:
    """`node_modules` by the lock file, kept in a cache outside the repository."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        _unavailable("this machine has no node and npm (node 20 or later brings both)")
    lock = (JS / "package-lock.json").read_bytes()
    home = Path.home() / ".cache" / "qstreamd" / "npm" / f"stand-ins-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (home / "node_modules").is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=home.parent))  # built aside and renamed: never half an installation
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JS / name, aside)
        command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        try:
            done = subprocess.run(command, cwd=aside, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            failure = done.stderr[-300:] if done.returncode else ""
        except subprocess.TimeoutExpired:
            failure = f"npm ci did not end within {INSTALL_S:.0f} s"
        if failure:
            shutil.rmtree(aside)
            _unavailable(f"npm ci: {failure}")
        try:
            aside.rename(home)
        except OSError:  # another process was faster
            shutil.rmtree(aside)
    return home / "node_modules"


def _unavailable(reason: str) -> None:
    """Skip, or fail where node is required, so that a CI machine cannot lose these tests unseen."""
    if os.environ.get("TEST_REQUIRE_NODE") == "1":  # noqa: TID251 - a switch of the suite, not of the product
        pytest.fail(f"aimock is required here: {reason}")
    pytest.skip(f"aimock is not installed: {reason}")
