"""Debian's Caddy and nginx with the files of docs/deploy/: streams pass at once and end with their viewers."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import pytest

from daemon.dev.embedded import free_port
from daemon.domain import events, messages
from daemon.domain.events import Channel, Usage
from tests.integration.gateway.conftest import Rig
from tests.integration.gateway.frames import all_events, frames
from tests.waiting import WaitUntil

DEPLOY: Final = Path(__file__).parents[3] / "docs" / "deploy"
DONE: Final = events.done(
    "t1", usage=Usage(), model_id="m1", content_sha256=messages.content_sha256("01234"), result="01234"
)
FIRST_BYTE_S: Final = 1.0  #: promised are 100 ms; this machine may be busy
GONE_S: Final = 2.0
TRIES: Final = 3  #: one that is quick enough shows that nothing is held back


def caddy(directory: Path, upstream: str, port: int) -> list[str | Path]:
    """The shipped file over plain HTTP on a port of ours; its admin port would be the same for everybody."""
    file = directory / "Caddyfile"
    file.write_text("{\n\tadmin off\n}\n" + (DEPLOY / "Caddyfile").read_text("utf-8"))
    settings = {
        "WORKER_HOST": f"http://127.0.0.1:{free_port()}", "GATEWAY_SITE": f"http://127.0.0.1:{port}",
        "GATEWAY_UPSTREAM": upstream, "HOME": str(directory),
    }  # fmt: skip
    return [
        "/usr/bin/env", *(f"{name}={value}" for name, value in settings.items()),
        "caddy", "run", "--adapter", "caddyfile", "--config", file,
    ]  # fmt: skip


def nginx(directory: Path, upstream: str, port: int) -> list[str | Path]:
    """The shipped file inside the least that nginx needs around it, without certificates."""
    site = (DEPLOY / "nginx.conf").read_text("utf-8")
    site = re.sub(r"^\s*ssl_certificate.*\n", "", site, flags=re.MULTILINE)
    site = site.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    site = site.replace("127.0.0.1:8081", upstream).replace("/var/log/nginx/qstreamd.log", "/dev/stdout")
    # Both servers share the port here; whatever the Host, the gateway's answers.
    site = site.replace(
        f"listen 127.0.0.1:{port};\n\tserver_name gateway",
        f"listen 127.0.0.1:{port} default_server;\n\tserver_name gateway",
    )
    (directory / "site.conf").write_text(site)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    file = directory / "nginx.conf"
    file.write_text(
        f"pid {directory}/pid;\nuser root;\nevents {{}}\nhttp {{\n{paths}include {directory}/site.conf;\n}}\n"
    )
    return ["nginx", "-p", directory, "-c", file, "-e", "stderr", "-g", "daemon off;"]


PROXIES: Final = {"caddy": caddy, "nginx": nginx}


class Proxied:
    """The gateway behind a proxy: `rig` talks through it."""

    def __init__(self, name: str, rig: Rig, log: Path) -> None:
        self.name = name
        self.rig = rig
        self.log = log


@contextmanager
def running(command: list[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, ended afterwards."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.fixture(params=PROXIES)
async def proxied(
    request: pytest.FixtureRequest, rig: Rig, tmp_path: Path, wait_until: WaitUntil
) -> AsyncIterator[Proxied]:
    """Ready when it forwards."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    port, log = free_port(), tmp_path / "log"
    with running(PROXIES[name](tmp_path, urlsplit(rig.url).netloc, port), log) as process:
        rig.url = f"http://127.0.0.1:{port}"

        async def forwards() -> bool:
            assert process.poll() is None, log.read_text("utf-8")
            try:
                async with rig.http.get(f"{rig.url}/api/queues") as answer:
                    return answer.status == 401
            except aiohttp.ClientConnectionError:
                return False

        await wait_until(forwards, description=f"{name} forwards", within_s=20)
        yield Proxied(name, rig, log)


async def test_events_pass_a_proxy_as_they_are_written(proxied: Proxied) -> None:
    """First bytes at once, each event before the next one is written, the end at the end."""
    rig, first_s = proxied.rig, []
    for _ in range(TRIES):
        began = time.monotonic()
        async with rig.follow("t1") as answer:
            assert await answer.content.readuntil(b"\n\n") == b": ok\n\n"
            first_s.append(time.monotonic() - began)
            assert answer.headers.get("Content-Encoding") is None
    sys.stdout.write(f"{proxied.name}: first byte after {min(first_s) * 1000:.1f} ms\n")
    assert min(first_s) < FIRST_BYTE_S
    async with rig.follow("t1") as answer:
        coming = frames(answer)
        assert (await anext(coming)).raw == ": ok"
        for number in range(5):
            await rig.append("t1", [events.token_batch(str(number), Channel.TEXT)])
            frame = await asyncio.wait_for(anext(coming), 10)
            if frame.event == "queued":
                frame = await asyncio.wait_for(anext(coming), 10)
            assert frame.data["delta"] == str(number)
        await rig.append("t1", [DONE])
        assert [f.event async for f in coming if f.event] == ["done"]


async def test_a_viewer_that_leaves_is_gone_behind_the_proxy_too(proxied: Proxied, wait_until: WaitUntil) -> None:
    """The proxy closes its connection to the gateway, in the middle of a silent stream."""
    rig, took_s = proxied.rig, []
    for _ in range(TRIES):
        async with rig.follow("t1") as answer:
            await answer.content.readuntil(b"\n\n")
            await wait_until(lambda: len(rig.fan_out.viewers) == 1, description="it follows")
            answer.close()
            began = time.monotonic()
            await wait_until(lambda: not rig.fan_out.viewers, description="the gateway knows", within_s=20)
            took_s.append(time.monotonic() - began)
    sys.stdout.write(f"{proxied.name}: upstream closed after {min(took_s) * 1000:.1f} ms\n")
    assert min(took_s) < GONE_S


async def test_the_other_ways_pass_too(proxied: Proxied) -> None:
    """WebSocket and long poll; what is private stays on the host; no token reaches the proxy's log."""
    rig, token = proxied.rig, proxied.rig.tokens.task_token("t1")
    async with rig.http.ws_connect(f"{rig.url}/api/tasks/t1/ws?after=0-0&token={token}") as socket:
        polling = asyncio.ensure_future(rig.poll("t1", wait=20))  # noqa: TID251, RUF100
        await rig.append("t1", [events.started("m1"), DONE])
        assert [(await socket.receive_json(timeout=10))["type"] for _ in range(3)] == ["queued", "started", "done"]
        assert (await socket.receive(timeout=10)).data == 1000
    assert (await polling)["events"][0]["type"] == "queued"
    headers = {"Accept": "text/event-stream"}
    async with rig.http.get(f"{rig.url}/api/tasks/t1/events?token={token}", headers=headers) as answer:
        assert [f.event for f in await all_events(answer)] == ["queued", "started", "done"]
    for path in ("/metrics", "/healthz/live", "/healthz/ready"):
        async with rig.http.get(f"{rig.url}{path}") as answer:
            assert answer.status == 404, path
    log = proxied.log.read_text("utf-8")
    assert "/api/tasks/t1/events" in log and token not in log
