"""What `rollover` asks: systemd by its `systemctl`, and the host by its files. Needs root."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.admin.rollover import LETTERS, Unit
from daemon.config import OpsSettings
from daemon.domain.errors import DependencyAway

PROPERTIES: Final = (
    "ActiveState", "UnitFileState", "MainPID", "StatusText", "ExecMainStatus", "ActiveEnterTimestampMonotonic",
)  # fmt: skip
SHARED: Final = {"common", "relay", "gateway"}  #: settings that are of no daemon
_PORT: Final = re.compile(r"^\s*OPS_PORT=[\"']?(\d+)", re.MULTILINE)
_TEMPLATE: Final = "qstreamd@"


@dataclass(frozen=True, slots=True)
class Systemctl:
    """Systemd of this host. Raises `DependencyAway` when it can't be asked."""

    proc: Path = Path("/proc")

    async def instances(self) -> list[str]:
        """Loaded instances of the daemon."""
        listed = await self._said("list-units", "--all", "--plain", "--no-legend", "--full", f"{_TEMPLATE}*.service")
        names = [line.split()[0] for line in listed.splitlines() if line.strip()]
        return [name.removeprefix(_TEMPLATE).removesuffix(".service") for name in names]

    async def look(self, name: str) -> Unit:
        """What systemd and the kernel know of it now."""
        told = await self._said("show", f"--property={','.join(PROPERTIES)}", f"{name}.service")
        shown = dict(line.partition("=")[::2] for line in told.splitlines())
        pid = int(shown.get("MainPID") or 0)
        return Unit(
            name=name,
            state=shown.get("ActiveState", "inactive"),
            enabled=shown.get("UnitFileState", "").startswith("enabled"),
            pid=pid,
            release=self._release(pid),
            memory=self._resident(pid),
            since=int(shown.get("ActiveEnterTimestampMonotonic") or 0) / 1e6,
            said=shown.get("StatusText", ""),
            exit_code=int(shown.get("ExecMainStatus") or 0),
        )

    async def start(self, name: str) -> bool:
        """Returns when it is ready, or has failed."""
        return (await self._ask("start", f"{name}.service"))[0] == 0

    async def stop(self, name: str) -> None:
        """Returns at once."""
        await self._said("stop", "--no-block", f"{name}.service")

    async def enable(self, name: str) -> None:
        """From the next start of the host on."""
        await self._said("enable", "--quiet", f"{name}.service")

    async def disable(self, name: str) -> None:
        """From the next start of the host on."""
        await self._said("disable", "--quiet", f"{name}.service")

    async def words(self, name: str, lines: int) -> list[str]:
        """From the journal, of the last two minutes; none when it can't be read."""
        # Backwards: with --since alone, -n would count from there on.
        asked = ("-u", f"{name}.service", "-n", str(lines), "-o", "cat", "--no-pager", "--since", "-2min", "--reverse")
        with suppress(DependencyAway):
            return (await self._ask(*asked, program="journalctl"))[1].splitlines()[::-1]
        return []

    async def _said(self, *arguments: str) -> str:
        code, said, complaint = await self._ask(*arguments)
        if code != 0:
            raise DependencyAway(f"systemctl {' '.join(arguments)} ended with {code}: {complaint.strip()}")
        return said

    async def _ask(self, *arguments: str, program: str = "systemctl") -> tuple[int, str, str]:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(program, *arguments, stdout=pipe, stderr=pipe)
        except FileNotFoundError as error:
            raise DependencyAway(f"{program} is not installed: this host is not run by systemd") from error
        said, complaint = await process.communicate()
        return process.returncode or 0, said.decode("utf-8", "replace"), complaint.decode("utf-8", "replace")

    def _release(self, pid: int) -> str:
        with suppress(OSError):
            at = (self.proc / str(pid) / "cwd").readlink()
            return at.name if pid and at.parent.name == "releases" else ""
        return ""

    def _resident(self, pid: int) -> int:
        with suppress(OSError):
            lines = (self.proc / str(pid) / "status").read_text("utf-8", "replace").splitlines()
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
        return 0


@dataclass(frozen=True, slots=True)
class Files:
    """This host's releases, settings and memory, below `root`."""

    root: Path = Path("/")

    def release(self) -> str:
        """What `current` points to."""
        current = self.root / "opt/qstreamd/current"
        if not current.is_symlink():
            raise DependencyAway(f"{current} is not there: no release was installed by systemd/install")
        return current.resolve().name

    def shares_port(self, release: str) -> bool:
        """Releases that know this command do."""
        return (self.root / "opt/qstreamd/releases" / release / "daemon/admin/rollover.py").exists()

    def names(self) -> list[str]:
        """Of the settings files that are no links."""
        found = sorted((self.root / "etc/qstreamd").glob("*.env"))
        return [path.stem for path in found if not path.is_symlink() and path.stem not in SHARED]

    def ops_port(self, name: str) -> str:
        """Its own OPS_PORT, else that of all processes, else the default."""
        for file in (name, "common"):
            with suppress(OSError):
                text = (self.root / "etc/qstreamd" / f"{file}.env").read_text("utf-8", "replace")
                if found := _PORT.findall(text):
                    return str(found[-1])
        return str(OpsSettings().port)

    def name_of(self, instance: str) -> str:
        """The letter is cut off unless the instance has settings of its own."""
        name, _, letter = instance.rpartition("-")
        return name if letter in LETTERS and name and instance not in self.names() else instance

    def link_settings(self, name: str) -> None:
        """`paid-a.env` and `paid-b.env` beside `paid.env`."""
        for letter in LETTERS:
            link = self.root / "etc/qstreamd" / f"{name}-{letter}.env"
            if not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(f"{name}.env")

    def available(self) -> int:
        """MemAvailable."""
        lines = (self.root / "proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
