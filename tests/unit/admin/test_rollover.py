"""What a rollover does in each state that it may find, with a systemd and a host that are played."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from daemon.admin.rollover import MIB, Refused, Rollover, Unit
from daemon.domain.errors import ConfigError, DependencyAway

OLD, NEW = "1.0-old", "1.1-new"


@dataclass
class FakeHost:
    """A host with settings for `paid` and `free`."""

    current: str = NEW
    free: int = 1024 * MIB
    own: set[str] = field(default_factory=lambda: {"paid", "free"})
    linked: set[str] = field(default_factory=set)
    ports: dict[str, str] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)  #: releases whose daemons do not share a port

    def release(self) -> str:
        return self.current

    def shares_port(self, release: str) -> bool:
        return release not in self.alone

    def ops_port(self, name: str) -> str:
        return self.ports.get(name, name)

    def name_of(self, instance: str) -> str:
        return instance[:-2] if instance[-2:] in ("-a", "-b") and instance not in self.own else instance

    def names(self) -> list[str]:
        return sorted(self.own)

    def link_settings(self, name: str) -> None:
        self.linked.add(name)

    def available(self) -> int:
        return self.free


class FakeUnits:
    """A systemd whose daemons drain for `drain` looks."""

    def __init__(self, host: FakeHost, *units: Unit) -> None:
        self.host = host
        self.units = {unit.name: unit for unit in units}
        self.did: list[str] = []
        self.drain = 2
        self.bad: dict[str, int] = {}  #: units that do not start, and the exit code of their process
        self.dies: set[str] = set()  #: units that end right after they were ready
        self.gives_back = 0  #: memory that a drained daemon gives back
        self._left: dict[str, int] = {}
        self._clock = 100.0

    async def instances(self) -> list[str]:
        return [name.removeprefix("qstreamd@") for name in self.units if name.startswith("qstreamd@")]

    async def look(self, name: str) -> Unit:
        unit = self.units.get(name, Unit(name))
        if unit.drains:
            self._left[name] = self._left.get(name, self.drain) - 1
            if self._left[name] < 0:
                del self._left[name]
                self.host.free += self.gives_back
                unit = self.units[name] = replace(unit, state="inactive", pid=0, release="", said="")
                self.did.append(f"ended {name}")
        return unit

    async def start(self, name: str) -> bool:
        self.did.append(f"start {name}")
        self._clock += 1
        unit = self.units.get(name, Unit(name))
        if name in self.bad:
            self.units[name] = replace(unit, state="activating", exit_code=self.bad[name])
            return False
        state = "inactive" if name == "qstreamd-migrate" else "active"
        self.units[name] = replace(
            unit, state=state, pid=int(self._clock), release=self.host.current, since=self._clock
        )
        if name in self.dies:
            asyncio.get_running_loop().call_later(0.005, self._die, name)
        return True

    def _die(self, name: str) -> None:
        self.units[name] = replace(self.units[name], state="activating", pid=0, exit_code=1)

    async def stop(self, name: str) -> None:
        self.did.append(f"stop {name}")
        self.units[name] = replace(self.units[name], state="deactivating", said="draining: 3 still run")

    async def enable(self, name: str) -> None:
        self.did.append(f"enable {name}")
        self.units[name] = replace(self.units[name], enabled=True)

    async def disable(self, name: str) -> None:
        self.did.append(f"disable {name}")
        self.units[name] = replace(self.units[name], enabled=False)

    async def words(self, name: str, lines: int) -> list[str]:
        return [f"the log of {name}"][:lines]


@pytest.fixture
def host() -> FakeHost:
    """With room for two."""
    return FakeHost()


def running(name: str, release: str = OLD, *, since: float = 1.0, enabled: bool = True, memory: int = 100) -> Unit:
    """A daemon at work."""
    return Unit(f"qstreamd@{name}", "active", enabled, 7, release, memory * MIB, since)


def rollover(units: FakeUnits, host: FakeHost, said: list[str] | None = None, **more: Any) -> Rollover:
    """Without its pauses."""
    made = Rollover(units, host, (said if said is not None else []).append, **more)
    made.poll_s, made.settle_s = 0.0, 0.02
    return made


async def test_the_new_one_is_ready_before_the_old_one_is_told_to_stop(host: FakeHost) -> None:
    """Migrated, started, enabled, then the old one stopped; and waited for."""
    units, said = FakeUnits(host, running("paid-a")), list[str]()
    [outcome] = await rollover(units, host, said).run([])
    assert units.did == [
        "start qstreamd-migrate", "start qstreamd@paid-b", "enable qstreamd@paid-b", "stop qstreamd@paid-a",
        "disable qstreamd@paid-a", "ended qstreamd@paid-a",
    ]  # fmt: skip
    assert (outcome.name, outcome.action, outcome.unit, outcome.release) == ("paid", "rolled", "qstreamd@paid-b", NEW)
    assert outcome.stopped == ["qstreamd@paid-a"] and outcome.drained_s is not None
    assert "paid: qstreamd@paid-a: draining: 3 still run" in said and host.linked == {"paid"}


async def test_a_second_run_changes_nothing_and_one_with_again_goes_back_to_the_other_place(host: FakeHost) -> None:
    """Idempotent; `--again` is for changed settings."""
    units = FakeUnits(host, running("paid-b", NEW))
    [outcome] = await rollover(units, host).run([])
    assert (outcome.action, units.did) == ("current", [])
    [outcome] = await rollover(units, host, again=True).run([])
    assert (outcome.action, outcome.unit) == ("rolled", "qstreamd@paid-a")
    assert units.units["qstreamd@paid-b"].state == "inactive"


async def test_an_installation_without_places_moves_to_the_first(host: FakeHost) -> None:
    """Also when it runs the release in force; it is not enabled any more, the place is."""
    for release in (OLD, NEW):
        units = FakeUnits(host, running("paid", release))
        [outcome] = await rollover(units, host).run([])
        assert (outcome.action, outcome.unit, outcome.stopped) == ("rolled", "qstreamd@paid-a", ["qstreamd@paid"])
        assert units.units["qstreamd@paid-a"].enabled and not units.units["qstreamd@paid"].enabled


async def test_one_that_was_not_enabled_is_not_enabled_by_a_rollover(host: FakeHost) -> None:
    """Somebody wants to start it by hand."""
    units = FakeUnits(host, running("paid-a", enabled=False))
    await rollover(units, host).run([])
    assert not any(unit.enabled for unit in units.units.values())


@pytest.mark.parametrize("cut_after", range(6))
async def test_a_rollover_that_was_cut_is_finished_by_the_next(host: FakeHost, cut_after: int) -> None:
    """After each of its steps; the end is the same: one runs, it is the new one, and it is the one enabled."""

    class Cut(Exception):
        pass

    units = FakeUnits(host, running("paid-a"))
    steps = 0

    def cut(name: str) -> None:
        original = getattr(units, name)

        async def step(unit: str) -> object:
            nonlocal steps
            steps += 1
            if steps > cut_after:
                raise Cut
            return await original(unit)

        setattr(units, name, step)

    methods = ("start", "stop", "enable", "disable")
    for name in methods:
        cut(name)
    if cut_after < 5:
        with pytest.raises(Cut):
            await rollover(units, host).run([])
    else:
        await rollover(units, host).run([])
    for name in methods:
        delattr(units, name)
    [outcome] = await rollover(units, host).run([])
    assert outcome.action == {0: "rolled", 1: "rolled", 5: "current"}.get(cut_after, "resumed")
    [left] = [unit for unit in units.units.values() if unit.runs]
    assert (left.name, left.release) == ("qstreamd@paid-b", NEW)
    assert [unit.name for unit in units.units.values() if unit.enabled] == ["qstreamd@paid-b"]
    assert units.did.count("start qstreamd@paid-b") == 1, "a daemon that works is not started again"


async def test_of_two_that_run_the_release_in_force_the_younger_one_stays(host: FakeHost) -> None:
    """`--again` was cut."""
    for again in (False, True):
        units = FakeUnits(host, running("paid-a", NEW, since=5), running("paid-b", NEW, since=2, enabled=False))
        [outcome] = await rollover(units, host, again=again).run([])
        assert (outcome.action, outcome.unit, outcome.stopped) == ("resumed", "qstreamd@paid-a", ["qstreamd@paid-b"])


async def test_when_both_places_are_taken_the_older_one_makes_room_first(host: FakeHost) -> None:
    """Two upgrades, the first of which was cut. One works all the time."""
    units = FakeUnits(host, running("paid-a", "0.8", since=2), running("paid-b", "0.9", since=9, enabled=False))
    [outcome] = await rollover(units, host).run([])
    assert units.did[:4] == [
        "start qstreamd-migrate", "stop qstreamd@paid-a", "ended qstreamd@paid-a", "start qstreamd@paid-a"
    ]  # fmt: skip
    assert (outcome.unit, outcome.stopped) == ("qstreamd@paid-a", ["qstreamd@paid-b"])


async def test_a_place_that_still_drains_is_waited_for(host: FakeHost) -> None:
    """Of the rollover before."""
    draining = replace(running("paid-b", "0.9", enabled=False), state="deactivating")
    units = FakeUnits(host, running("paid-a"), draining)
    [outcome] = await rollover(units, host).run([])
    assert units.did[:3] == ["start qstreamd-migrate", "ended qstreamd@paid-b", "start qstreamd@paid-b"]
    assert outcome.stopped == ["qstreamd@paid-a"]


async def test_without_memory_for_two_nothing_is_touched(host: FakeHost) -> None:
    """The numbers and the cure are named; `--force` goes on."""
    host.free = 200 * MIB
    units = FakeUnits(host, running("paid-a", memory=300))
    with pytest.raises(Refused, match=r"paid: not enough memory .* 200 MiB available, 364 MiB needed") as caught:
        await rollover(units, host).run([])
    assert "systemctl restart qstreamd@paid-a" in caught.value.cure and "--force" in caught.value.cure
    assert units.did == [] and units.units["qstreamd@paid-a"].state == "active"
    said: list[str] = []
    [outcome] = await rollover(units, host, said, force=True).run([])
    assert outcome.action == "rolled" and any("because of --force" in line for line in said)


async def test_the_second_name_waits_for_the_memory_of_the_first(host: FakeHost) -> None:
    """Else all are started first and drain side by side."""
    units = FakeUnits(host, running("free-a"), running("paid-a"))
    await rollover(units, host).run([])
    assert units.did.index("start qstreamd@paid-b") < units.did.index("ended qstreamd@free-a")
    assert units.did.count("start qstreamd-migrate") == 1
    units, host.free = FakeUnits(host, running("free-a"), running("paid-a")), 150 * MIB
    units.gives_back = 100 * MIB
    with pytest.raises(Refused, match="free: not enough memory"):
        await rollover(units, host).run([])
    host.free = 200 * MIB

    async def start(name: str) -> bool:
        host.free -= 100 * MIB if "@" in name else 0
        return await FakeUnits.start(units, name)

    units.start = start  # type: ignore[method-assign]
    units.did.clear()
    await rollover(units, host).run([])
    assert units.did.index("ended qstreamd@free-a") < units.did.index("start qstreamd@paid-b")


@pytest.mark.parametrize(("code", "error"), [(78, ConfigError), (75, DependencyAway), (1, Refused)])
async def test_a_new_one_that_does_not_start_is_taken_away_and_the_old_one_goes_on(
    host: FakeHost, code: int, error: type[Exception]
) -> None:
    """Its last words are in the error, whose kind says whether trying again helps. Other names are left alone."""
    units = FakeUnits(host, running("free-a"), running("paid-a"))
    units.bad["qstreamd@free-b"] = code
    with pytest.raises(error) as caught:
        await rollover(units, host).run([])
    assert "the old one goes on" in str(caught.value) and "the log of qstreamd@free-b" in str(caught.value)
    assert units.units["qstreamd@free-b"].state == "inactive"
    assert all(units.units[name] == running(name[9:]) for name in ("qstreamd@free-a", "qstreamd@paid-a"))


async def test_a_new_one_that_ends_right_after_it_was_ready_replaces_nobody(host: FakeHost) -> None:
    """Ready is its own word; that it goes on is looked at."""
    units = FakeUnits(host, running("paid-a"))
    units.dies.add("qstreamd@paid-b")
    with pytest.raises(Refused, match=r"qstreamd@paid-b ended right after it was ready; the old one goes on"):
        await rollover(units, host).run([])
    assert units.units["qstreamd@paid-a"] == running("paid-a")


@pytest.mark.parametrize(("code", "error"), [(78, ConfigError), (75, DependencyAway)])
async def test_migrations_that_do_not_suit_both_releases_end_it_before_anything(
    host: FakeHost, code: int, error: type[Exception]
) -> None:
    """What `migrate` said is passed on."""
    units = FakeUnits(host, running("paid-a"))
    units.bad["qstreamd-migrate"] = code
    with pytest.raises(error, match="no daemon was started or stopped"):
        await rollover(units, host).run([])
    assert units.did == ["start qstreamd-migrate"]


async def test_a_release_that_can_not_share_its_port_is_named_with_its_cure(host: FakeHost) -> None:
    """The first upgrade from a release without rollovers has a pause."""
    host.alone = {OLD}
    units = FakeUnits(host, running("paid"))
    with pytest.raises(Refused, match="can't share its ops port") as caught:
        await rollover(units, host).run([])
    assert "systemctl stop qstreamd@paid, then rollover paid" in caught.value.cure


async def test_a_name_that_does_not_run_is_started_when_it_is_asked_for(host: FakeHost) -> None:
    """And enabled. Without a name it is left alone; so is one that was just stopped."""
    units = FakeUnits(host)
    assert await rollover(units, host).run([]) == []
    [outcome] = await rollover(units, host).run(["paid"])
    assert (outcome.action, outcome.unit, outcome.stopped) == ("started", "qstreamd@paid-a", [])
    assert units.units["qstreamd@paid-a"].enabled
    await units.stop("qstreamd@paid-a")
    assert await rollover(units, host).run([]) == []


async def test_an_unknown_name_is_refused_with_those_that_are_known(host: FakeHost) -> None:
    """Nothing is touched. A place is as good as its name."""
    units = FakeUnits(host, running("paid-a"))
    with pytest.raises(Refused, match=r"/etc/qstreamd/piad.env is not there") as caught:
        await rollover(units, host).run(["piad"])
    assert (caught.value.code, caught.value.cure, units.did) == (2, "names with settings: free, paid", [])
    [outcome] = await rollover(units, host).run(["paid-a"])
    assert outcome.name == "paid"


async def test_an_instance_whose_own_name_ends_like_a_place_keeps_its_name(host: FakeHost) -> None:
    """`paid-a.env` is a file of its own, no link."""
    host.own = {"free", "paid-a"}
    units = FakeUnits(host, running("paid-a"))
    [outcome] = await rollover(units, host).run([])
    assert (outcome.name, outcome.unit, outcome.stopped) == ("paid-a", "qstreamd@paid-a-a", ["qstreamd@paid-a"])


async def test_a_file_in_the_place_of_a_link_is_named(host: FakeHost) -> None:
    """`paid` would run with the settings of another instance."""
    host.own.add("paid-b")
    with pytest.raises(Refused, match=r"paid-b\.env is a file, but qstreamd@paid-b is a place of paid"):
        await rollover(FakeUnits(host, running("paid-a")), host).run([])


async def test_two_names_with_one_port_are_told_so(host: FakeHost) -> None:
    """Both would listen, and a health check would reach either."""
    said: list[str] = []
    host.ports = {"free": "9464", "paid": "9464"}
    await rollover(FakeUnits(host, running("free-a", NEW), running("paid-a", NEW)), host, said).run(["paid"])
    assert said[0] == "warning: free and paid have the same OPS_PORT (9464): give each its own, then --again"
    said.clear()
    await rollover(FakeUnits(host, running("paid-a", NEW)), host, said).run([])
    assert not any("warning" in line for line in said)


async def test_without_waiting_the_drain_goes_on_alone(host: FakeHost) -> None:
    """`--no-wait`; the next rollover waits for it."""
    units = FakeUnits(host, running("paid-a"))
    [outcome] = await rollover(units, host, wait=False).run([])
    assert (outcome.drained_s, units.units["qstreamd@paid-a"].state) == (None, "deactivating")
    [outcome] = await rollover(units, host).run([])
    assert (outcome.action, units.units["qstreamd@paid-a"].state) == ("resumed", "inactive")


async def test_relay_and_gateway_of_an_older_release_are_named(host: FakeHost) -> None:
    """They are not rolled over: with a socket, calls wait during a restart."""
    relay, gateway = (Unit(f"qstreamd-{name}", "active", release=OLD) for name in ("relay", "gateway"))
    units = FakeUnits(host, relay, replace(gateway, release=NEW))
    assert await rollover(units, host).behind() == ["qstreamd-relay"]
