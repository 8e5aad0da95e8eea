"""Debian's Chromium without a window, told what to do over its own debugging protocol: no driver in between.

async with chromium(tmp_path) as browser:
    page = await browser.open(url, width=1280, height=800)
    await page.until("document.body.dataset.phase === 'done'")
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

START_S: Final = 40.0  #: a busy machine reads 300 MB from disk first
ANSWER_S: Final = 20.0
#: nothing but the page that we name is asked for
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol."""
        return await self._browser.send(method, session=self._session, **params)

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise. A script that throws fails the test."""
        found = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"].get("exception", found)
        return found["result"].get("value")

    async def until(self, condition: str, within_s: float = 30.0) -> None:
        """Returns when the expression is true; what the page shows is in the failure."""
        deadline = time.monotonic() + within_s
        while not await self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never: {condition}\n{await self.run('document.body.innerText')}"
            await asyncio.sleep(0.05)

    async def put_file(self, selector: str, path: Path) -> None:
        """Chooses a file as a person would in an `<input type=file>`."""
        root = (await self.send("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.send("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    async def size(self, width: int, height: int) -> None:
        """As large as this; below 600 px it is a phone."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def picture(self) -> bytes:
        """A PNG of what is to be seen, from top to bottom."""
        found = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(found["data"])


class Browser:
    """A running Chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def open(self, url: str, *, width: int = 1280, height: int = 800) -> Page:
        """A new tab with this address."""
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = Page(self, session)
        await page.size(width, height)
        await page.send("Page.enable")
        await page.send("Page.navigate", url=url)
        return page

    async def send(self, method: str, *, session: str = "", **params: Any) -> dict[str, Any]:
        """The answer to one command."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        await self._socket.send_str(json.dumps(message))
        async with asyncio.timeout(ANSWER_S):
            found = await answer
        assert "error" not in found, f"{method}: {found['error']}"
        result: dict[str, Any] = found["result"]
        return result

    async def listen(self) -> None:
        """Hands answers to those who wait for them; events of the browser are passed over."""
        async for message in self._socket:
            found = json.loads(message.data)
            waiting = self._waiting.pop(found.get("id"), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(found)


@asynccontextmanager
async def chromium(directory: Path) -> AsyncIterator[Browser]:
    """A browser with an empty profile in `directory`; gone afterwards. Skips where there is none."""
    process = _started(directory)
    try:
        async with asyncio.timeout(START_S):
            while not (address := _address(directory)):
                assert process.poll() is None, _log(directory)
                await asyncio.sleep(0.05)
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(address, max_msg_size=0) as socket,
            asyncio.TaskGroup() as group,
        ):
            browser = Browser(socket)
            listening = group.create_task(browser.listen())
            try:
                yield browser
            finally:
                listening.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait, 10)


def _started(directory: Path) -> subprocess.Popen[bytes]:
    program = shutil.which("chromium")
    if (
        program is None
        or subprocess.run([program, "--version"], capture_output=True, timeout=30, check=False).returncode
    ):
        pytest.skip("chromium is not installed")
    profile = f"--user-data-dir={directory / 'profile'}"
    with (directory / "chromium.log").open("wb") as log:
        return subprocess.Popen(
            ["/usr/bin/env", f"HOME={directory}", program, *FLAGS, profile, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def _address(directory: Path) -> str:
    """Where it listens; "" until it does."""
    file = directory / "profile" / "DevToolsActivePort"
    words = file.read_text().split() if file.exists() else []
    return f"ws://127.0.0.1:{words[0]}{words[1]}" if len(words) == 2 else ""


def _log(directory: Path) -> str:
    return (directory / "chromium.log").read_text("utf-8", "replace")[-2000:]
