"""This host: limits of the process, room for images, what systemd was told. Asks no server."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from daemon.admin.checkup.finding import Finding, error, info, ok, warning
from daemon.config import Settings

FILES_LEAST: Final = 4096  #: a viewer, a model call and a Redis reader are a file each
FREE_LEAST: Final = 1_000_000_000
SYSTEMD: Final = Path("/run/systemd/system")  #: there when systemd is what started this host
UNITS: Final = ("qstreamd@*.service", "qstreamd-relay.service")
PROPERTIES: Final = (
    "Id", "ActiveState", "Type", "TimeoutStopUSec", "WatchdogUSec", "LimitNOFILE", "RestartPreventExitStatus",
)  # fmt: skip
_ASK_S: Final = 5.0


async def check(settings: Settings) -> list[Finding]:
    """Everything about this host."""
    found = [files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
    if settings.blobs.store == "disk":
        found.append(blob_directory(Path(settings.blobs.dir)))
    return [*found, *await _systemd(settings)]


def files(soft: int) -> Finding:
    """How many files one process may open."""
    text = f"a process may open {'any number of' if soft < 0 else soft} files"
    if 0 <= soft < FILES_LEAST:
        cure = "ulimit -n 65536, or LimitNOFILE=65536 in the unit (the shipped units have it)"
        return warning("host.files", text, cure)
    return ok("host.files", text)


def blob_directory(directory: Path) -> Finding:
    """Whether images find room where BLOB_DIR says."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(there, os.W_OK):
        cure = f"make it, and give it to the user that runs qstreamd: install -d -o qstreamd {directory}"
        return error("host.blobs", f"BLOB_DIR={directory} can't be written by this user", cure)
    free = shutil.disk_usage(there).free
    text = f"BLOB_DIR={directory} has {free / 1e9:.1f} GB free"
    return warning("host.blobs", text, "make room on that disk") if free < FREE_LEAST else ok("host.blobs", text)


async def _systemd(settings: Settings) -> list[Finding]:
    if not SYSTEMD.is_dir() or shutil.which("systemctl") is None:
        return [info("host.systemd", "systemd does not run this host; its units were not looked at")]
    asked = ["systemctl", "show", "--no-pager", f"--property={','.join(PROPERTIES)}", *UNITS]
    process = await asyncio.create_subprocess_exec(
        *asked, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(_ASK_S):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return [info("host.systemd", f"systemctl did not answer within {_ASK_S:g} s")]
    return units(told.decode("utf-8", "replace"), settings)


def units(told: str, settings: Settings) -> list[Finding]:
    """What `systemctl show` says of our units, held against the settings. Pure."""
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in told.split("\n\n")]
    found = [finding for block in blocks if block.get("Id") for finding in _unit(block, settings)]
    active = {block.get("Id", "") for block in blocks if block.get("ActiveState") == "active"}
    for first in sorted(unit for unit in active if unit.endswith("-a.service")):
        second = first.removesuffix("-a.service") + "-b.service"
        if second in active:
            text = f"{first} and {second} both run: a rollover goes on or was cut off, and holds memory twice"
            found.append(warning("host.rollover", text, "qstreamd rollover finishes it"))
    return found or [info("host.systemd", "no unit of qstreamd is loaded", "systemd/ holds them; docs/operate.md")]


def _unit(unit: Mapping[str, str], settings: Settings) -> Iterator[Finding]:
    name, wrong = unit["Id"], False
    if unit.get("Type") != "notify":
        wrong = True
        text = f"{name} has Type={unit.get('Type')}: systemd does not wait until it is ready"
        yield warning("host.systemd", text, "Type=notify, as in the shipped unit")
    if "relay" in name:
        if not wrong:
            yield ok("host.systemd", f"{name} fits")
        return
    stop_s = span_s(unit.get("TimeoutStopUSec", "infinity"))
    if stop_s is not None and stop_s <= settings.shutdown.drain_s:
        wrong = True
        text = f"{name} is killed after {stop_s:g} s, but drains up to QSTREAMD_DRAIN_S={settings.shutdown.drain_s:g}"
        yield error(
            "host.systemd", text, f"TimeoutStopSec={settings.shutdown.stop_s:g} in the unit, then daemon-reload"
        )
    watchdog_s = span_s(unit.get("WatchdogUSec", "infinity"))
    if watchdog_s is not None and 0 < watchdog_s < settings.redis.block_s * 2:
        wrong = True
        text = f"{name} has WatchdogSec={watchdog_s:g}, less than two blocked reads of {settings.redis.block_s:g} s"
        yield warning("host.systemd", text, "WatchdogSec=60 or more, or a smaller QSTREAMD_REDIS_BLOCK_S")
    if "78" not in unit.get("RestartPreventExitStatus", "").split():
        wrong = True
        text = f"{name} is restarted for ever on a bad configuration"
        yield warning("host.systemd", text, "RestartPreventExitStatus=2 78 in the unit")
    if not wrong:
        yield ok("host.systemd", f"{name} fits the settings")


_SPANS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def span_s(text: str) -> float | None:
    """A time as systemd writes it (`3min 30s`) in seconds; None for `infinity`."""
    total = 0.0
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = _SPANS.get(part[len(number) :])
        if unit is None or not number.replace(".", "", 1).isdigit():
            return 0.0 if part == "0" else None
        total += float(number) * unit
    return total
