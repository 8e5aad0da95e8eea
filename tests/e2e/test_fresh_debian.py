"""The documented steps on a fresh Debian 12, as printed: one is made with debootstrap, and entered with chroot.

Needs root, debootstrap and a Debian mirror, and takes minutes: `make chaos ARGS="-k fresh_debian"`. DEBIAN_ROOT names a
root that was made before, which is copied. There is no systemd to start anything: `systemctl` is Debian's own, told
that it is offline.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.printed import DOCS, blocks

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = "python3,python3-venv,ca-certificates,systemd,openssl,procps"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNITS: Final = [
    "qstreamd@paid-a.service",
    "qstreamd@free-b.service",
    "qstreamd-relay.service",
    "qstreamd-migrate.service",
]
STUBS: Final = {
    "systemctl": """
        echo "$@" >>/systemctl.log
        for word; do shift; [ "$word" = --now ] || set -- "$@" "$word"; done
        SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl "$@"
    """,
    "git": 'mkdir -p "$3" && cp -a /checkout/. "$3"',
    "docker": 'echo "$@" >>/docker.log',
    "curl": 'echo "$@" >>/curl.log',
    "qstreamd": 'echo "$@" >>/qstreamd.log',  # what it does needs a systemd: tests/e2e/test_rollover.py plays one
    "apt-get": "mkdir -p /etc/caddy",
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: a program for that is not installed"),
]


class Debian:
    """A system of its own below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, script: str, directory: str = "/") -> str:
        """What a root shell says; no package comes but from the wheels that were laid there."""
        found = subprocess.run(
            ["/usr/sbin/chroot", str(self.root), "env", "-i", f"PATH={PATH}", "HOME=/root", "PIP_NO_INDEX=1",
             "PIP_FIND_LINKS=/wheels", "sh", "-eu", "-c", f"cd {directory}\n{script}"],
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert found.returncode == 0, f"{script}\n{found.stdout}{found.stderr}"
        return found.stdout + found.stderr

    def log(self, program: str) -> list[str]:
        """How it was called."""
        return (self.root / f"{program}.log").read_text().splitlines()


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    """Fresh, with a checkout in /checkout and the locked packages as wheels."""
    root = tmp_path_factory.mktemp("debian") / "root"
    if made := os.environ.get("DEBIAN_ROOT"):
        subprocess.run(["/bin/cp", "-a", made, str(root)], check=True)
    else:
        command = ["/usr/sbin/debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1200)
    (root / "checkout").mkdir()
    names = subprocess.run(["/usr/bin/env", "git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["/bin/tar", "-c", "--null", "-T-", f"-f{root}/c.tar"], cwd=ROOT, input=names, check=True)
    subprocess.run(["/bin/tar", "-xf", str(root / "c.tar"), "-C", str(root / "checkout")], check=True)
    wheels(root / "wheels")
    for name, script in STUBS.items():
        stub = root / "usr/local/bin" / name
        stub.write_text(f"#!/bin/sh\n{script}\n")
        stub.chmod(0o755)
    yield Debian(root)
    shutil.rmtree(root)


def wheels(directory: Path) -> None:
    """The packages of run.lock for Debian's Python 3.11."""
    lock = (ROOT / "requirements" / "run.lock").read_text()
    # Markers are left out, since pip judges them by the Python that asks; what is for emscripten alone is not wanted.
    lines = re.findall(r"^([a-z0-9-]+==[^ ]+)( ; .*)? \\$", lock, re.MULTILINE)
    wanted = [name for name, marker in lines if "== 'emscripten'" not in marker]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(directory), "--python-version", "3.11", *wanted]
    subprocess.run(command, check=True, timeout=600, stderr=subprocess.DEVNULL)


def test_systemd_instead_of_docker(debian: Debian) -> None:
    """operate.md's block, then deploy.md's upgrade and its way back, then uninstall: all as printed."""
    [block] = blocks(DOCS / "operate.md", "## systemd instead of Docker")
    debian.run(block, "/checkout")
    units = "qstreamd.target qstreamd-relay.socket qstreamd-relay qstreamd@paid-a qstreamd@free-a"
    assert debian.log("systemctl") == ["start qstreamd-migrate", f"enable --now {units}"]
    wanted = {path.name for path in (debian.root / "etc/systemd/system/qstreamd.target.wants").iterdir()}
    assert wanted == {"qstreamd-relay.service", "qstreamd@paid-a.service", "qstreamd@free-a.service"}
    assert debian.run(f"systemd-analyze verify --man=no {' '.join(UNITS)}") == ""
    assert {path.stat().st_mode & 0o777 for path in (debian.root / "etc/credstore").iterdir()} == {0o600}
    python = "/opt/qstreamd/current/.venv/bin/python -m daemon"
    assert "qstreamd" in debian.run(f"{python} --version", "/opt/qstreamd/current")
    credentials = "for f in /etc/credstore/qstreamd.*; do cp $f /run/credentials/${f##*qstreamd.}; done"
    checked = f"""
        mkdir -p /run/credentials && {credentials}
        printf %s redis://127.0.0.1:6379 >/run/credentials/redis_url
        printf %s postgresql://x:y@127.0.0.1/z >/run/credentials/database_url
        set -a; . /etc/qstreamd/common.env; CREDENTIALS_DIRECTORY=/run/credentials {python} check
    """
    assert "a process would start with this" in debian.run(checked, "/opt/qstreamd/current")
    first = (debian.root / "opt/qstreamd/current").readlink()
    with (debian.root / "checkout/daemon/__init__.py").open("a") as file:
        file.write("# a later release\n")
    upgrade, back = blocks(DOCS / "deploy.md", "## Upgrade without a pause")
    debian.run(upgrade, "/checkout")
    assert (debian.root / "opt/qstreamd/current").readlink() != first
    assert debian.log("systemctl")[-1] == "restart qstreamd-relay"
    debian.run(back.replace("NAME-OF-THE-OLD-ONE", first.name), "/checkout")
    assert (debian.root / "opt/qstreamd/current").readlink() == first and debian.log("qstreamd") == ["rollover"]
    debian.run("systemd/uninstall --purge", "/checkout")
    assert not list((debian.root / "etc").rglob("qstreamd*"))


def test_a_server_in_ten_minutes(debian: Debian) -> None:
    """operate.md's block for Compose; what it leaves is a stack that Compose takes and a file for Caddy."""
    [block] = blocks(DOCS / "operate.md", "## A server in ten minutes")
    debian.run(block, "/")
    assert debian.log("docker") == ["compose up --detach --build --wait"]
    assert debian.log("curl") == ["-fsS http://127.0.0.1:8080/healthz/ready"]
    made = debian.root / "opt/qstreamd"
    assert (made / "secrets").stat().st_mode & 0o777 == 0o700 and (made / ".env").stat().st_mode & 0o777 == 0o600
    password = (made / "secrets/postgres_password").read_text()
    assert len(password) == 48 and f":{password}@" in (made / "secrets/database_url").read_text()
    compose = Path(sys.executable).with_name("docker-compose")
    subprocess.run([compose, "config", "--quiet"], cwd=made, check=True, timeout=60)
    assert "worker.example.com {" in (debian.root / "etc/caddy/Caddyfile").read_text()
    shutil.rmtree(made)
