"""The product's wheel: without the stand-ins and the demo, which the extra `demo` brings as a wheel of their own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from daemon import __version__
from tests.e2e.processes import ROOT, spawn_in
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(120)


def built(folder: Path, into: Path) -> Path:
    """The wheel of the project in `folder`, made without network."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def dev_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT / "daemon" / "dev", tmp_path_factory.mktemp("dev"))


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """A folder that holds what the product's wheel installs."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    return tmp_path / "installed"


@pytest.fixture
async def world(redis_url: str, postgres_url: str, tmp_path: Path, installed: Path) -> AsyncIterator[World]:
    """Its relay and daemons are those of the wheel."""
    async with World(redis_url, postgres_url, tmp_path, spawned_by=spawn_in(installed)) as world:
        yield world


def names(wheel: Path) -> set[str]:
    """The files of the package that a wheel holds."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def ran(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python in that folder; what it said."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_the_two_wheels_share_the_tree_between_them(wheel: Path, dev_wheel: Path) -> None:
    """Every file is in one of them: all of `daemon/dev/` in the second, nothing of it in the first."""
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "daemon").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "pyproject.toml"
    }
    product, dev = names(wheel), names(dev_wheel)
    assert [name for name in product if name.startswith("daemon/dev/")] == []
    assert [name for name in dev if not name.startswith("daemon/dev/")] == []
    assert product | dev == files


def test_the_extra_brings_the_other_wheel(wheel: Path, dev_wheel: Path) -> None:
    """Of the same version: they are one tree."""
    told = {}
    for path in (wheel, dev_wheel):
        archive = zipfile.ZipFile(path)
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        told[path] = message_from_bytes(archive.read(name))
    wanted = [Requirement(line) for line in told[wheel].get_all("Requires-Dist", [])]
    [ours] = [requirement for requirement in wanted if requirement.name == "qstreamd-dev"]
    assert str(ours.specifier) == f"=={__version__}"
    assert ours.marker is not None
    assert [ours.marker.evaluate({"extra": extra}) for extra in ("demo", "otel", "")] == [True, False, False]
    assert {str(found["Version"]) for found in told.values()} == {__version__}


def test_the_demo_says_where_it_comes_from(installed: Path, dev_wheel: Path) -> None:
    """One line with the cure; beside the other wheel it is there."""
    refused = ran(installed, "-m", "daemon", "demo")
    assert (refused.returncode, refused.stdout) == (2, "")
    cure = "pip install 'qstreamd[demo]' brings it; in a checkout: make demo"
    assert refused.stderr == f"Error: `demo` is not part of this installation: {cure}\n"
    assert "demo " not in ran(installed, "-m", "daemon", "--help").stdout
    zipfile.ZipFile(dev_wheel).extractall(installed)
    assert "embedded servers" in ran(installed, "-m", "daemon", "--help").stdout
    assert ran(installed, "-m", "daemon", "demo", "--help").returncode == 0


IMPORT_ALL = """
import importlib, pkgutil, daemon, sys
for module in pkgutil.walk_packages(daemon.__path__, "daemon."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(daemon.__file__, "daemon.dev" in sys.modules)
"""


def test_every_module_can_be_imported_without_the_stand_ins(installed: Path) -> None:
    done = ran(installed, "-c", IMPORT_ALL)
    assert (done.returncode, done.stdout) == (0, f"{installed}/daemon/__init__.py False\n"), done.stderr
    refused = ran(installed, "-m", "daemon", "loadtest", "--in-process")
    assert (refused.returncode, "pip install 'qstreamd[demo]'" in refused.stderr) == (1, True)


async def test_relay_and_daemon_of_the_wheel_run_a_task(world: World) -> None:
    """From the signed call to the ack."""
    daemon = await world.start_daemon()
    await world.publish("t1", tokens=20)
    assert (await world.ended("t1"))["type"] == "done"
    await world.check()
    assert await daemon.stop() == 0
