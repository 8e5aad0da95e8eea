"""The relay takes a socket that systemd made, as systemd hands it over."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from tests.e2e.relay_process import running_relay

ACTIVATE = shutil.which("systemd-socket-activate")
#: systemd's own program listens, and starts the relay when the first call comes; the relay is not told the port
LISTEN = f"""
import os, sys
port = os.environ.pop("RELAY_PORT")
passed = [part for name in os.environ for part in ("-E", name)]
listen = ["{ACTIVATE}", "--listen=127.0.0.1:" + port, *passed, sys.executable, "-m", "daemon", "relay"]
os.execv(listen[0], listen)
"""


@pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
async def test_a_relay_listens_where_systemd_listened_for_it(redis_url: str) -> None:
    """The first call arrives before the relay runs, and waits for it instead of being refused."""
    with running_relay(redis_url, command=("-c", LISTEN)) as relay:
        reply = await relay.call()
        assert (reply.status, reply.body["status"]) == (200, "queued")
        assert "Listening on 127.0.0.1" in relay.words()


@pytest.mark.parametrize("command", [("-m", "daemon", "relay"), pytest.param(("-c", LISTEN), id="socket")])
async def test_a_relay_under_systemd_ends_when_it_is_told_to(
    redis_url: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """At once where nothing is in flight. It asked systemd for more time for ever, and was killed in the end."""
    if command[0] == "-c" and ACTIVATE is None:
        pytest.skip("systemd-socket-activate is not installed")
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(address)
        with running_relay(redis_url, command=command, NOTIFY_SOCKET=address) as relay:
            assert (await relay.call()).status == 200
            assert await asyncio.to_thread(relay.stop, 8) == 0
