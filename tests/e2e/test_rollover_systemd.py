"""Units, installation and rollover under a real systemd: this Debian below an overlay, booted in namespaces of its own.

Needs root, systemd 252, a Python of the system and the packages' index; takes two minutes:
`make chaos ARGS="-k rollover_systemd"`. Nothing of the host is written to or started: the units of `/etc/systemd` are
left out, and network, processes and control groups are the namespaces' own. Settings come from files, since credentials
can't be read in such namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from daemon.dev.embedded_postgres import postgres_installations
from daemon.dev.embedded_redis import redis_installations

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = Path("/usr/bin/python3")
SYSTEMD: Final = Path("/lib/systemd/systemd")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: of the system: a wheel's lies in a directory that its user can't see
POSTGRES: Final = next((at for at in postgres_installations().values() if at.is_relative_to("/usr")), None)
#: systemd as the first process of new namespaces; the old root is left behind
BOOT: Final = """
set -e
ip link set lo up
mount --make-rprivate /; mount --bind "$0" "$0"; cd "$0"
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp
mount -t cgroup2 none sys/fs/cgroup; mount -t tmpfs tmpfs dev
for node in null zero random urandom tty full; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mkdir -p dev/pts dev/shm run/old; mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666; ln -sf pts/ptmx dev/ptmx
touch dev/console
pivot_root . run/old; cd /; umount -l /run/old
container=nspawn exec /lib/systemd/systemd --log-target=console --unit=tried.target
"""
UNITS: Final = {
    "tried.target": "[Unit]\nRequires=basic.target redis.service postgres.service models.service\nAfter=basic.target\n",
    "redis.service": "[Service]\nExecStart=/usr/local/bin/tried-redis --appendonly yes --appendfsync always"
    " --maxmemory-policy noeviction --dir /var/lib/tried-redis\n",
    "postgres.service": "[Service]\nUser=nobody\nExecStartPre={postgres}/initdb -D /var/lib/tried-postgres -A trust"
    " -U nobody\nExecStart={postgres}/postgres -D /var/lib/tried-postgres -k /tmp\n",
    "models.service": "[Service]\nWorkingDirectory=/checkout\nExecStart=/opt/qstreamd/current/.venv/bin/python"
    " -m daemon.dev.fake_llm --port 4000 --words 60 --tokens-per-s 60\n",
}  # fmt: skip
DROP_INS: Final = [f"{unit}.service.d/tried.conf" for unit in ("qstreamd@", "qstreamd-migrate", "qstreamd-relay")]
SETTINGS: Final = """
REDIS_URL=redis://127.0.0.1:6379/0
DATABASE_URL=postgresql://nobody@127.0.0.1:5432/postgres
WORKER_BASE_URL=http://127.0.0.1:8080
QSTASH_CURRENT_SIGNING_KEY=sig_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
QSTASH_NEXT_SIGNING_KEY=sig_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
DEEPSEEK_API_KEY=sk-x
DEEPSEEK_BASE_URL=http://127.0.0.1:4000/v1
SERVICES_FILE=/etc/qstreamd/services.toml
"""
SERVICES: Final = """
[models.m]
provider = "deepseek"
name = "deepseek-chat"
input = ["text"]
concurrency = { paid = 200, free = 200 }

[services.echo]
title = "Echo"
prompt = "{{ text }}"
models = { paid = ["m"], free = ["m"] }
"""
LOAD: Final = """
set -a; . /etc/qstreamd/common.env; set +a
exec qstreamd loadtest --rate 900 --duration 25 --yes --mix q_paid_stream:echo --users 400 --variables /srv/tried.json
"""
GAP: Final = """
import asyncio, asyncpg
PAIRS = "SELECT started_at, lag(started_at) OVER (ORDER BY started_at) AS before FROM qstreamd.attempts"
LONGEST = f"SELECT max(extract(epoch FROM started_at - before)) FROM ({PAIRS}) AS p WHERE before > to_timestamp(BEGAN)"
async def main():
    print(await (await asyncpg.connect("postgresql://nobody@127.0.0.1:5432/postgres")).fetchval(LONGEST))
asyncio.run(main())
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: a program for that is not installed"),
    pytest.mark.skipif(not (SYSTEMD.exists() and PYTHON.exists()), reason="systemd and its Python are not installed"),
    pytest.mark.skipif(POSTGRES is None, reason="Postgres of the system is not installed"),
]


class Booted:
    """A system of its own below one directory, and the first process in it."""

    def __init__(self, root: Path, pid: int) -> None:
        self.root = root
        self.pid = pid

    def run(self, script: str, expect: int = 0) -> str:
        """What a root shell in it says on both outputs."""
        inside = ["/usr/bin/nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-C", "-n", "-r"]
        found = subprocess.run(
            [*inside, "/usr/bin/env", "-i", f"PATH={PATH}", "HOME=/root", "sh", "-uc", script],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert found.returncode == expect, f"{script}: {found.returncode}\n{found.stdout}{found.stderr}"
        return found.stdout + found.stderr

    def daemons(self) -> dict[str, str]:
        """Which run, and what their processes run from."""
        listed = self.run("systemctl list-units --state=active --plain --no-legend 'qstreamd@*'").splitlines()
        pid = "$(systemctl show -P MainPID {})"
        return {
            u: self.run(f"readlink /proc/{pid.format(u)}/cwd").strip() for u in (line.split()[0] for line in listed)
        }


def shell(script: str, root: Path, **variables: str) -> None:
    """In the new root, before anything runs in it."""
    passed = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP"))]
    given = [f"PATH={PATH}", "HOME=/root", f"PYTHON={PYTHON}", *passed, *(f"{k}={v}" for k, v in variables.items())]
    command = ["/usr/sbin/chroot", str(root), "/usr/bin/env", "-i", *given, "sh", "-euc", script]
    found = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert found.returncode == 0, f"{script}\n{found.stdout}{found.stderr}"


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Booted]:
    """Two releases, the first in force; Redis, Postgres and a stand-in for models run."""
    base = tmp_path / "booted"
    base.mkdir()
    mount = shutil.which("mount") or "mount"
    subprocess.run([mount, "-t", "tmpfs", "tmpfs", str(base)], check=True)
    root = base / "root"
    for name in ("root", "upper", "work"):
        (base / name).mkdir()
    layers = f"lowerdir=/,upperdir={base}/upper,workdir={base}/work"
    subprocess.run([mount, "-t", "overlay", "overlay", "-o", layers, str(root)], check=True)
    systemd: subprocess.Popen[bytes] | None = None
    try:
        furnish(root)
        command = ["/usr/bin/unshare", "-m", "-p", "-u", "-i", "-C", "-n", "--fork", "--kill-child", "bash", "-c", BOOT]
        with (base / "console.log").open("wb") as console:
            systemd = subprocess.Popen([*command, str(root)], stdout=console, stderr=console, stdin=subprocess.DEVNULL)
        yield Booted(root, first_process(systemd.pid))
    finally:
        if systemd is not None:
            systemd.send_signal(signal.SIGKILL)
            systemd.wait()
        for place in (root, base):
            subprocess.run([shutil.which("umount") or "umount", "-l", str(place)], check=True)


def furnish(root: Path) -> None:
    """What is to run: a checkout installed twice, the second time with other scripts, and the servers."""
    for name in ("etc/systemd/system", "etc/qstreamd", "opt/qstreamd"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    (root / "checkout").mkdir()
    names = subprocess.run(["/usr/bin/env", "git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["/bin/tar", "-c", "--null", "-T-", f"-f{root}/c.tar"], cwd=ROOT, input=names, check=True)
    subprocess.run(["/bin/tar", "-xf", str(root / "c.tar"), "-C", str(root / "checkout")], check=True)
    shell("/checkout/systemd/install", root)
    first = (root / "opt/qstreamd/current").readlink()
    for script in (root / "checkout/daemon").rglob("*.lua"):
        script.write_text(script.read_text("utf-8") + "\n-- of the next release\n", "utf-8")
    shell("/checkout/systemd/install; cd /opt/qstreamd; ln -sfn $FIRST current", root, FIRST=str(first))
    shutil.copy(next(iter(redis_installations().values())), root / "usr/local/bin/tried-redis")
    shell("mkdir /var/lib/tried-redis; install -d -o nobody /var/lib/tried-postgres", root)
    for name, text in UNITS.items():
        unit = root / "etc/systemd/system" / name
        unit.write_text(text.replace("{postgres}", str(POSTGRES)))
    for name in DROP_INS:
        (root / "etc/systemd/system" / name).parent.mkdir()
        (root / "etc/systemd/system" / name).write_text("[Service]\nLoadCredential=\n")
    (root / "etc/qstreamd/common.env").write_text(SETTINGS)
    (root / "etc/qstreamd/services.toml").write_text(SERVICES)
    (root / "srv/tried.json").write_text('{"text": "hello"}')
    (root / "srv/load.sh").write_text(LOAD)


def first_process(parent: int) -> int:
    """Systemd, child of the process that made the namespaces, once it answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()
        if children and "systemd" in Path(f"/proc/{children[0]}/comm").read_text("ascii"):
            made = Booted(Path("/"), int(children[0]))
            try:
                made.run("systemctl is-active postgres.service redis.service models.service")
            except AssertionError:
                pass
            else:
                return made.pid
        time.sleep(0.2)
    raise AssertionError("systemd did not come up within 60 s")


def upgrade_as_documented(booted: Booted) -> None:
    """First start as printed, then `systemd/install` under load: its rollover makes no pause above 2 s."""
    booted.run("until systemctl start qstreamd-migrate; do sleep 0.5; done")
    booted.run("systemctl enable --now qstreamd.target qstreamd-relay qstreamd@paid-a")
    assert list(booted.daemons()) == ["qstreamd@paid-a.service"]
    booted.run("systemd-run --quiet --unit=load sh /srv/load.sh")
    booted.run("until journalctl -u load -o cat | grep -q sent; do sleep 0.3; done")
    began = time.time()
    said = booted.run("/checkout/systemd/install")
    assert "qstreamd@paid-b is ready" in said and "qstreamd@paid-a stops reading" in said, said
    assert "still of an older release: systemctl restart qstreamd-relay" in said
    release = booted.run("readlink -f /opt/qstreamd/current").strip()
    assert booted.daemons() == {"qstreamd@paid-b.service": release}
    wanted = booted.run("ls /etc/systemd/system/qstreamd.target.wants").split()
    assert wanted == ["qstreamd-relay.service", "qstreamd@paid-b.service"]
    booted.run("while systemctl is-active --quiet load; do sleep 0.5; done")
    assert "every accepted task ended" in booted.run("journalctl -u load -o cat")
    python = "/opt/qstreamd/current/.venv/bin/python"
    (booted.root / "srv/gap.py").write_text(GAP.replace("BEGAN", str(began)))
    assert float(booted.run(f"{python} /srv/gap.py")) <= 2


def finish_what_was_killed(booted: Booted) -> None:
    """SIGKILL while the new one starts; then nothing is left to do, and the way back is one more."""
    booted.run("timeout -s KILL 2 qstreamd rollover paid --again", expect=137)
    said = booted.run("qstreamd rollover")
    assert len(booted.daemons()) == 1, said
    assert "already" in booted.run("qstreamd rollover")
    [before] = booted.daemons()
    booted.run("cd /opt/qstreamd; for r in releases/*; do [ $r = $(readlink current) ] || ln -sfn $r next; done")
    booted.run("cd /opt/qstreamd; mv -T next current; qstreamd rollover")
    [(unit, release)] = booted.daemons().items()
    assert unit != before and release == booted.run("readlink -f /opt/qstreamd/current").strip()


def refuse_a_setting(booted: Booted) -> None:
    """Exit 78, with the daemon's own words; the settings of both places are one file."""
    before = booted.daemons()
    settings = booted.root / "etc/qstreamd/paid.env"
    good = settings.read_text()
    booted.run("echo QSTREAMD_LEASE_S=0 >> /etc/qstreamd/paid.env")
    said = booted.run("qstreamd rollover paid --again", expect=78)
    assert "the old one goes on" in said and "QSTREAMD_LEASE_S='0' is not allowed" in said
    assert booted.daemons() == before
    settings.write_text(good)


def move_an_installation_without_places(booted: Booted) -> None:
    """`qstreamd@free`, as it was enabled by an earlier release."""
    booted.run("systemctl enable --now qstreamd@free; qstreamd rollover free")
    assert "qstreamd@free-a.service" in booted.daemons() and "qstreamd@free.service" not in booted.daemons()
    wanted = booted.run("ls /etc/systemd/system/qstreamd.target.wants").split()
    assert "qstreamd@free-a.service" in wanted and "qstreamd@free.service" not in wanted
    booted.run("cd /checkout; systemd/uninstall")
    assert booted.daemons() == {}


def test_daemons_are_replaced_under_a_real_systemd(booted: Booted) -> None:
    """In this order: each step begins with what the one before left."""
    upgrade_as_documented(booted)
    finish_what_was_killed(booted)
    refuse_a_setting(booted)
    move_an_installation_without_places(booted)
