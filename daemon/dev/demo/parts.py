"""The relay and the daemon as processes of the demo, held like the embedded servers: they never outlive us."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

import daemon
from daemon.dev.embedded import Embedded, free_port

#: what a Python needs of its surroundings; our own settings and proxies must not come along
_KEPT: Final = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_KEPT_PREFIXES: Final = ("COVERAGE_", "COV_CORE_")  # so that what runs in them counts in our own tests
_ROOT: Final = Path(daemon.__file__).parents[1]


class PartFailed(Exception):
    """A process ended or did not start; `words` are the last lines it logged."""

    def __init__(self, part: str, what: str, words: str) -> None:
        super().__init__(f"{part} {what}")
        self.words = words


class Part(Embedded):
    """`python -m daemon …` with no other settings than `variables`, on a port of its own; ready when it says so."""

    transient = ("Address already in use", "address already in use", "can't listen")
    stop_timeout_s = 8.0

    def __init__(self, name: str, arguments: Sequence[str], variables: Callable[[int], Mapping[str, str]]) -> None:
        self.name = name
        super().__init__()
        self.port = 0
        self._arguments = arguments
        self._variables = variables  # for the port that it gets

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        """Everything that it logs."""
        return self.directory / "log"

    def _command(self) -> Sequence[str]:
        self.port = free_port()
        inherited = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
        fixed = {"PYTHONPATH": str(_ROOT), "NO_COLOR": "1"}
        self._env = {**inherited, **fixed, **self._variables(self.port)}
        return [sys.executable, "-m", "daemon", *self._arguments]

    def _ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", "/healthz/ready")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
