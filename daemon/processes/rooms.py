"""Rooms that a build may leave out: the core takes a call and runs a task without them.

The core imports none of `admin`, `gateway`, `dev` and `contract_docs`; what it offers of them where they are there is
loaded here. Called by `processes` and by `cli`, which lists only commands whose rooms it has.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from daemon.domain.errors import ConfigError

if TYPE_CHECKING:  # `--help` and completion come here too, and settings take a tenth of a second to import
    from daemon.config import Settings


def has(room: str) -> bool:
    """Whether this build has `daemon.{room}`."""
    spec = find_spec(f"daemon.{room}")
    return spec is not None and spec.origin is not None  # without one it is an empty folder


def optional(module: str) -> ModuleType | None:
    """The module `daemon.{module}`, imported now; None in a build without its room."""
    return importlib.import_module(f"daemon.{module}") if has(module.partition(".")[0]) else None


def arm_failpoints(settings: Settings) -> None:
    """Arm the crash points that `QSTREAMD_FAILPOINTS` names. Raises `ConfigError` in a build without them."""
    named = settings.runtime.failpoints
    if named is None:
        return
    failpoints = optional("dev.failpoints")
    if failpoints is None:
        raise ConfigError(["QSTREAMD_FAILPOINTS: this build has no crash points (`daemon.dev` was left out)"])
    failpoints.install(named)
