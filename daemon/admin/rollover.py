"""A new release in place of the old one without a pause: the new daemon is ready before the old one stops reading.

Each name (`paid`) has two places, the units `qstreamd@paid-a` and `qstreamd@paid-b`, both with the settings of
`paid.env`; one runs, the other is free. Every step is decided by what runs now, so a rollover that was cut off is
finished by the next one. Asks systemd through `Units` and the host through `Host`; called by `cli.rollover`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from daemon.domain.errors import ConfigError, DependencyAway, QstreamdError

LETTERS: Final = ("a", "b")
MIGRATE: Final = "qstreamd-migrate.service"
BESIDE: Final = ("qstreamd-relay.service", "qstreamd-gateway.service")  #: of the release, but not rolled over
MIB: Final = 1024 * 1024
NEEDED_LEAST: Final = 128 * MIB  #: what a daemon of 20 slots takes under load
SPARE: Final = 64 * MIB  #: left to everybody else
_RUNNING: Final = {"active", "activating", "reloading"}
_EX_TEMPFAIL: Final = 75
_EX_CONFIG: Final = 78
_WORDS: Final = 5  #: last lines of a unit that did not start

Action = Literal["rolled", "resumed", "current", "started"]


class Refused(QstreamdError):
    """The rollover stops here; what ran before goes on. `cure` says what to do, `code` how the command ends."""

    def __init__(self, why: str, cure: str, code: int = 1) -> None:
        super().__init__(why)
        self.cure = cure
        self.code = code


@dataclass(frozen=True, slots=True)
class Unit:
    """A service as systemd sees it now."""

    name: str  #: without `.service`
    state: str = "inactive"  #: ActiveState
    enabled: bool = False
    pid: int = 0
    release: str = ""  #: whose code its process runs; "" when none runs, or it is none of ours
    memory: int = 0  #: bytes that its process holds now
    since: float = 0.0  #: when it became active, on systemd's clock
    said: str = ""  #: its own line of status
    exit_code: int = 0  #: of its last process

    @property
    def runs(self) -> bool:
        """Whether it works or is about to; one that drains does not."""
        return self.state in _RUNNING

    @property
    def drains(self) -> bool:
        """Whether it was told to stop and has not ended."""
        return self.state == "deactivating"


class Units(Protocol):
    """As much of systemd as a rollover asks for."""

    async def instances(self) -> list[str]:
        """Instances of the daemon that are loaded: `paid-a`, `free-b`."""

    async def look(self, name: str) -> Unit:
        """How it is now; one that was never loaded is inactive."""

    async def start(self, name: str) -> bool:
        """Start and wait until it is ready (or has ended, when that is its job); whether it did."""

    async def stop(self, name: str) -> None:
        """Tell it to stop, and return at once."""

    async def enable(self, name: str) -> None:
        """Start it with the host from now on."""

    async def disable(self, name: str) -> None:
        """Do not start it with the host any more; what runs goes on."""

    async def words(self, name: str, lines: int) -> list[str]:
        """The last lines of its log."""


class Host(Protocol):
    """As much of the host as a rollover asks for."""

    def release(self) -> str:
        """The release in force: what starts from now on."""

    def shares_port(self, release: str) -> bool:
        """Whether daemons of that release let another one listen on their ops port."""

    def ops_port(self, name: str) -> str:
        """Where health checks and scrapes reach the daemon of that name."""

    def name_of(self, instance: str) -> str:
        """`paid` for `paid-a`, `paid-b` and `paid`."""

    def names(self) -> list[str]:
        """Names that have settings."""

    def link_settings(self, name: str) -> None:
        """Let both places of a name read its settings. Repeatable."""

    def available(self) -> int:
        """Bytes that can be had without swapping."""


@dataclass(slots=True)
class Outcome:
    """What became of one name."""

    name: str
    action: Action
    unit: str  #: what runs now
    release: str
    stopped: list[str] = field(default_factory=list)
    ready_s: float | None = None  #: from its start until it read; None when it ran before
    drained_s: float | None = None  #: from the order to stop until the last old one had ended; None: nobody waited


@dataclass(slots=True)
class Rollover:
    """One run over some names. `say` gets a line for each step."""

    units: Units
    host: Host
    say: Callable[[str], None]
    force: bool = False  #: although memory is short
    again: bool = False  #: although the release in force runs already: for changed settings
    wait: bool = True  #: until those that were stopped have drained
    poll_s: float = 0.5  #: between two looks at a unit
    #: both read for so long: a daemon that ends right after it was ready must not replace one that works, and the new
    #: one loads a vendor's package with its first task (1 s), in which it starts no other
    settle_s: float = 2.0
    drains: list[tuple[Outcome, str, float]] = field(default_factory=list)
    _migrated: bool = False

    async def run(self, names: Sequence[str]) -> list[Outcome]:
        """Roll these over, or all that run, one after another. `Refused` leaves the rest as it is."""
        running = await self._running()
        names = [self.host.name_of(name) for name in names]
        if unknown := [name for name in names if name not in {*running, *self.host.names()}]:
            known = ", ".join(self.host.names()) or "none"
            raise Refused(
                f"no settings for {', '.join(unknown)}: /etc/qstreamd/{unknown[0]}.env is not there",
                f"names with settings: {known}",
                2,
            )
        self._compare_ports(sorted({*names, *running}))
        outcomes = [await self._one(name) for name in dict.fromkeys(names or running)]
        if self.wait:
            await self._drained()
        return outcomes

    def _compare_ports(self, names: Sequence[str]) -> None:
        """Places of one name share their port; of two names it is a mistake that no start would show."""
        ports = [(self.host.ops_port(name), name) for name in names]
        for port in sorted({port for port, _ in ports}):
            if len(same := [name for at, name in ports if at == port]) > 1:
                self.say(
                    f"warning: {' and '.join(same)} have the same OPS_PORT ({port}): give each its own, then --again"
                )

    async def behind(self) -> list[str]:
        """Services beside the daemons that still run another release."""
        found = [await self.units.look(name.removesuffix(".service")) for name in BESIDE]
        return [unit.name for unit in found if unit.runs and unit.release not in ("", self.host.release())]

    async def _running(self) -> list[str]:
        instances = await self.units.instances()
        running = {i for i in instances if (await self.units.look(f"qstreamd@{i}")).runs}
        return sorted({self.host.name_of(instance) for instance in running})

    async def _one(self, name: str) -> Outcome:
        for place in {f"{name}-{letter}" for letter in LETTERS} & set(self.host.names()):
            raise Refused(
                f"/etc/qstreamd/{place}.env is a file, but qstreamd@{place} is a place of {name}",
                f"give it another name, or make it a link to {name}.env",
            )
        units = [await self.units.look(f"qstreamd@{name}{end}") for end in ("-a", "-b", "")]
        running = sorted((unit for unit in units if unit.runs), key=lambda unit: unit.since)
        current = self.host.release()
        # The unit without a letter is of an installation before there were two places: it is replaced in any case.
        fit = [u for u in running if u.release == current and u.name != f"qstreamd@{name}" and u.state == "active"]
        if fit and not (self.again and len(running) == 1):
            others = [unit for unit in units if unit is not fit[-1]]
            return await self._keep(name, fit[-1], others)
        places = units[:2]
        free = next((unit for unit in places if not unit.runs and not unit.drains), None)
        self._check_port(name, running)
        if running and free:
            await self._check_memory(name, running)
        await self._migrate()
        if free is None:  # both work or drain: the one that ends first, or the older one, makes room
            free = next((unit for unit in places if unit.drains), None) or next(u for u in running if u in places)
            await self._end(name, free)
            running = [unit for unit in running if unit is not free]
        return await self._replace(name, free, running, units)

    async def _keep(self, name: str, kept: Unit, others: Iterable[Unit]) -> Outcome:
        """The new one runs: what is left of an earlier rollover is the end of the old one."""
        outcome = Outcome(name, "current", kept.name, kept.release)
        enabled = kept.enabled or any(unit.enabled for unit in others)
        if enabled and not kept.enabled:
            await self.units.enable(kept.name)
        for unit in others:
            await self._retire(outcome, unit)
        outcome.action = "resumed" if outcome.stopped else "current"
        if not outcome.stopped:
            self.say(f"{name}: {kept.name} runs {kept.release} already")
        return outcome

    async def _replace(self, name: str, new: Unit, running: Sequence[Unit], units: Iterable[Unit]) -> Outcome:
        old = ", ".join(f"{unit.name} ({unit.release or 'unknown release'})" for unit in running)
        self.host.link_settings(name)
        self.say(f"{name}: starting {new.name} ({self.host.release()})" + (f" beside {old}" if old else ""))
        began = time.monotonic()
        if not await self.units.start(new.name):
            await self._failed(new.name, "did not become ready", bool(running))
        outcome = Outcome(name, "rolled" if running else "started", new.name, self.host.release())
        outcome.ready_s = round(time.monotonic() - began, 1)
        first = await self.units.look(new.name)
        await asyncio.sleep(self.settle_s)
        settled = await self.units.look(new.name)
        if settled.state != "active" or settled.pid != first.pid:
            await self._failed(new.name, "ended right after it was ready", bool(running))
        self.say(f"{name}: {new.name} is ready after {outcome.ready_s:g} s")
        if any(unit.enabled for unit in units) or not running:
            await self.units.enable(new.name)
        for unit in units:
            if unit.name != new.name:
                await self._retire(outcome, unit)
        return outcome

    async def _retire(self, outcome: Outcome, unit: Unit) -> None:
        """Stop it, and let the host not start it again."""
        if unit.runs:
            await self.units.stop(unit.name)
            self.say(f"{outcome.name}: {unit.name} stops reading and drains")
        if unit.runs or unit.drains:
            outcome.stopped.append(unit.name)
            self.drains.append((outcome, unit.name, time.monotonic()))
        if unit.enabled:
            await self.units.disable(unit.name)

    def _check_port(self, name: str, running: Sequence[Unit]) -> None:
        for unit in running:
            if unit.release and not self.host.shares_port(unit.release):
                raise Refused(
                    f"{unit.name} runs {unit.release}, which can't share its ops port with a second daemon",
                    f"this once with a pause: systemctl stop {unit.name}, then rollover {name}",
                )

    async def _check_memory(self, name: str, running: Sequence[Unit]) -> None:
        needed = max(NEEDED_LEAST, *(unit.memory for unit in running)) + SPARE
        if self.host.available() < needed and self.drains:
            self.say(f"{name}: waiting for memory, which those that drain will give back")
            await self._drained()
        available = self.host.available()
        if available >= needed:
            return
        numbers = f"{_mib(available)} available, {_mib(needed)} needed"
        if self.force:
            self.say(f"{name}: memory is short ({numbers}); going on because of --force")
            return
        needs = (
            f"the {_mib(running[-1].memory)} that it holds, at least {_mib(NEEDED_LEAST)}, and {_mib(SPARE)} to spare"
        )
        raise Refused(
            f"{name}: not enough memory for a second daemon beside {running[-1].name}: {numbers} ({needs})",
            f"free memory, or come back when fewer tasks run; with a pause: systemctl restart {running[-1].name}; "
            "--force starts it all the same",
        )

    async def _migrate(self) -> None:
        """The schema of the new release, once; `migrate` refuses what the old one could not work on."""
        if self._migrated:
            return
        self.say("migrations: starting qstreamd-migrate")
        if not await self.units.start(MIGRATE.removesuffix(".service")):
            code = (await self.units.look(MIGRATE.removesuffix(".service"))).exit_code
            words = await self.units.words(MIGRATE.removesuffix(".service"), _WORDS)
            raise _error(code, ["qstreamd-migrate failed; no daemon was started or stopped", *words])
        self._migrated = True

    async def _failed(self, name: str, why: str, running: bool) -> None:  # noqa: FBT001  # called here only
        code = (await self.units.look(name)).exit_code
        words = await self.units.words(name, _WORDS)
        await self.units.stop(name)
        await self._ended(name, lambda _: None)
        raise _error(code, [f"{name} {why}" + ("; the old one goes on" if running else ""), *words])

    async def _end(self, name: str, unit: Unit) -> None:
        """Wait until this place is free."""
        if unit.runs:
            await self.units.stop(unit.name)
        self.say(f"{name}: waiting until {unit.name} has ended, to start the new one in its place")
        await self._ended(unit.name, lambda said: self.say(f"{name}: {unit.name}: {said}"))

    async def _drained(self) -> None:
        """Wait until all that were stopped have ended."""
        while self.drains:
            outcome, name, since = self.drains[0]
            ended = await self._ended(name, lambda said: self.say(f"{outcome.name}: {name}: {said}"))  # noqa: B023  # awaited
            outcome.drained_s = round(time.monotonic() - since, 1)
            how = "has ended" if ended.state != "failed" else "was killed in its drain: its tasks are taken over"
            self.say(f"{outcome.name}: {name} {how} after {outcome.drained_s:g} s")
            self.drains.pop(0)

    async def _ended(self, name: str, tell: Callable[[str], None]) -> Unit:
        said = ""
        while (unit := await self.units.look(name)).runs or unit.drains:
            if unit.drains and unit.said not in ("", said):
                said = unit.said
                tell(said)
            await asyncio.sleep(self.poll_s)
        return unit


def _error(code: int, lines: list[str]) -> QstreamdError:
    if code == _EX_CONFIG:
        return ConfigError(lines)
    text = "\n  ".join(lines)
    if code == _EX_TEMPFAIL:
        return DependencyAway(text)
    return Refused(text, "mend it, then run rollover again; what ran before goes on")


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
