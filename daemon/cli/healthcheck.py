"""`python -m daemon healthcheck live|ready`: the health check of a container, over a bare socket.

With `--at` it imports nothing that takes time: with a check each 30 s on one CPU, every import would be paid for all
day. Without it the settings are read, which takes a tenth of a second.
"""

from __future__ import annotations

import socket
import sys

import click

TIMEOUT_S = 3.0
ANSWER_BYTES_MAX = 64 * 1024
EXIT_NOT = 1


@click.command(
    "healthcheck",
    epilog="Examples:  python -m daemon healthcheck ready   |   healthcheck live --of relay --at 127.0.0.1:9465",
)
@click.argument("what", type=click.Choice(["live", "ready"]))
@click.option("--of", "role", type=click.Choice(["daemon", "relay", "gateway"]), default="daemon", show_default=True)
@click.option(
    "--at", metavar="HOST:PORT", help="Where it listens; else OPS_*, RELAY_* or GATEWAY_* of the environment."
)
@click.option("--timeout", "timeout_s", default=TIMEOUT_S, show_default=True, type=float, help="Seconds for all of it.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(*, what: str, role: str, at: str | None, timeout_s: float, quiet: bool) -> None:
    """Exit 0 when the process on this host says that it is live or ready, 1 when it does not or can't be reached.

    live: its event loop turns. ready: it can work now; the answer names what is missing.
    """
    host, port = _address(role, at)
    try:
        status, body = _ask(host, port, f"/healthz/{what}", timeout_s)
    except (OSError, ValueError) as error:
        status, body = 0, f"{type(error).__name__}: nobody answers at {host}:{port}"
    if not quiet:
        click.echo("".join(c if c.isprintable() else " " for c in body).strip()[:2000], err=status != 200)
    sys.exit(0 if status == 200 else EXIT_NOT)


def _address(role: str, at: str | None) -> tuple[str, int]:
    if at is not None:
        host, _, port = at.rpartition(":")
        if not host or not port.isdigit():
            raise click.BadParameter("HOST:PORT is wanted", param_hint="--at")
        return host.strip("[]"), int(port)
    from daemon import config

    settings = config.load()
    listening: dict[str, tuple[str, int]] = {
        "daemon": (settings.ops.host, settings.ops.port),
        "relay": (settings.relay.host, settings.relay.port),
        "gateway": (settings.gateway.host, settings.gateway.port),
    }
    host, own_port = listening[role]
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens everywhere listens here
    return everywhere.get(host, host), own_port


def _ask(host: str, port: int, path: str, timeout_s: float) -> tuple[int, str]:
    """Status and body of one GET. Raises OSError, or ValueError for what is no HTTP."""
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        name = f"[{host}]" if ":" in host else host
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(ANSWER_BYTES_MAX):
            answer += chunk
            if len(answer) > ANSWER_BYTES_MAX:
                raise ValueError
    head, _, body = answer.partition(b"\r\n\r\n")
    version, status = head.split(None, 2)[:2]
    if not version.startswith(b"HTTP/"):
        raise ValueError
    return int(status), body.decode("utf-8", "replace")
