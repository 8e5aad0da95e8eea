"""What we make of `systemctl`'s words and of a host's files. The program is a stand-in; its words are systemd 252's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.admin.rollover import Unit
from daemon.admin.systemctl import Files, Systemctl
from daemon.domain.errors import DependencyAway

SYSTEMCTL = r"""#!/bin/sh
echo "$@" >>"$0.log"
case "$*" in
  list-units*)
    echo 'qstreamd@free-a.service loaded inactive dead    qstreamd daemon (free-a)'
    echo 'qstreamd@paid-b.service loaded active   running qstreamd daemon (paid-b)' ;;
  show*paid-b*)
    printf '%s\n' MainPID=4242 ExecMainStatus=0 'StatusText=running 3 of 20; reads q_paid_stream' ActiveState=active \
      UnitFileState=enabled ActiveEnterTimestampMonotonic=123456789 ;;
  show*) printf '%s\n' MainPID=0 ExecMainStatus=78 StatusText= ActiveState=failed UnitFileState= ;;
  start*paid-a*) echo 'Job for qstreamd@paid-a.service failed.' >&2; exit 1 ;;
  disable*) echo 'Access denied' >&2; exit 4 ;;
esac
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    """First on the path, and a /proc with one daemon."""
    for name, text in {
        "systemctl": SYSTEMCTL,
        "journalctl": "#!/bin/sh\necho 'the last line'\necho 'one before'\n",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    process = tmp_path / "proc" / "4242"
    process.mkdir(parents=True)
    (process / "cwd").symlink_to("/opt/qstreamd/releases/1.0-abc")
    (process / "status").write_text("Name:\tpython\nVmHWM:\t  90000 kB\nVmRSS:\t  81920 kB\n")
    return Systemctl(tmp_path / "proc")


async def test_a_unit_is_read(systemctl: Systemctl) -> None:
    """Its release is where its process runs, its memory what that process holds."""
    assert await systemctl.instances() == ["free-a", "paid-b"]
    assert await systemctl.look("qstreamd@paid-b") == Unit(
        "qstreamd@paid-b", "active", enabled=True, pid=4242, release="1.0-abc", memory=81920 * 1024, since=123.456789,
        said="running 3 of 20; reads q_paid_stream",
    )  # fmt: skip
    gone = await systemctl.look("qstreamd@paid-a")
    assert (gone.state, gone.runs, gone.enabled, gone.exit_code, gone.release) == ("failed", False, False, 78, "")
    assert await systemctl.words("qstreamd@paid-a", 5) == ["one before", "the last line"]


async def test_orders_reach_systemd(systemctl: Systemctl, tmp_path: Path) -> None:
    """A start that fails is an answer, any other refusal an error with systemd's words."""
    assert await systemctl.start("qstreamd@paid-b") and not await systemctl.start("qstreamd@paid-a")
    await systemctl.stop("qstreamd@paid-b")
    await systemctl.enable("qstreamd@paid-b")
    with pytest.raises(DependencyAway, match=r"systemctl disable .* ended with 4: Access denied"):
        await systemctl.disable("qstreamd@paid-b")
    log = (tmp_path / "systemctl.log").read_text().splitlines()
    assert log[:4] == [
        "start qstreamd@paid-b.service", "start qstreamd@paid-a.service", "stop --no-block qstreamd@paid-b.service",
        "enable --quiet qstreamd@paid-b.service",
    ]  # fmt: skip


async def test_a_host_without_systemctl_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In words, not with a traceback."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyAway, match="systemctl is not installed"):
        await Systemctl().instances()


def test_names_are_settings_files_and_places_their_links(tmp_path: Path) -> None:
    """Links are made where they miss or lead nowhere, and an instance with a file of its own keeps its name."""
    host, settings = Files(tmp_path), tmp_path / "etc/qstreamd"
    settings.mkdir(parents=True)
    for name in ("common", "paid", "relay", "x-b"):
        (settings / f"{name}.env").write_text("")
    (settings / "paid-b.env").symlink_to("gone.env")
    host.link_settings("paid")
    host.link_settings("paid")
    assert [str((settings / f"paid-{letter}.env").readlink()) for letter in "ab"] == ["paid.env", "paid.env"]
    assert host.names() == ["paid", "x-b"]
    assert [host.name_of(name) for name in ("paid", "paid-a", "paid-b", "x-b", "x-b-a", "a")] == [
        "paid", "paid", "paid", "x-b", "x-b", "a"
    ]  # fmt: skip


def test_the_ops_port_is_read_from_settings(tmp_path: Path) -> None:
    """The last of its own lines, else that of all processes, else the default."""
    host, settings = Files(tmp_path), tmp_path / "etc/qstreamd"
    settings.mkdir(parents=True)
    assert host.ops_port("paid") == "9464"
    (settings / "common.env").write_text("# OPS_PORT=1\nOPS_PORT=9500\n")
    (settings / "paid.env").write_text("QSTREAMD_QUEUES=q\nOPS_PORT=9501\nOPS_PORT='9502'\n")
    assert (host.ops_port("free"), host.ops_port("paid")) == ("9500", "9502")


def test_the_release_in_force_and_memory_are_read(tmp_path: Path) -> None:
    """A host without a release has no `current`; a release that knows this command shares its port."""
    host, home = Files(tmp_path), tmp_path / "opt/qstreamd"
    with pytest.raises(DependencyAway, match="no release was installed"):
        host.release()
    (home / "releases/1.1-def/daemon/admin").mkdir(parents=True)
    (home / "current").symlink_to("releases/1.1-def")
    assert host.release() == "1.1-def" and not host.shares_port("1.1-def")
    (home / "releases/1.1-def/daemon/admin/rollover.py").write_text("")
    assert host.shares_port("1.1-def") and not host.shares_port("0.9-abc")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  2000000 kB\nMemAvailable:  1000000 kB\n")
    assert host.available() == 1_024_000_000
