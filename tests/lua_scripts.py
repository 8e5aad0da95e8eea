"""The Lua scripts of all rooms by their name alone: no two have the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from daemon.redis_client.scripts import Script, load_script

ROOMS: Final = {path.stem: path.parts[-3] for path in (Path(__file__).parents[1] / "daemon").glob("*/lua/*.lua")}


def script(name: str, *before: str) -> Script:
    """The script as its room loads it."""
    return load_script(ROOMS[name], name, *before)
