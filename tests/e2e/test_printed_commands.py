"""The commands of README.md and docs/deploy.md, run as they are printed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from daemon.dev.embedded import free_port
from daemon.dev.embedded_postgres import EmbeddedPostgres, postgres_installations
from tests import nodejs
from tests.printed import DOCS, blocks
from tests.waiting import WaitUntil

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
DEPLOY: Final = DOCS / "deploy.md"
HERE: Final = Path(__file__).relative_to(ROOT).as_posix()
#: what begins like this is run there; the rest of a line is arguments
RUN_IN: Final = {
    r"make (demo|test)$": ".ci/run",
    r"python -m daemon": HERE,
    r"pg_dump|pg_restore|QSTREAMD_(PERCENT|USERS)=": HERE,
    r"systemd/install|systemctl|qstreamd rollover|ls -t /opt|ln -sfn releases": "tests/e2e/test_fresh_debian.py",
    r"RELAY_UPSTREAM=.* caddy run": "tests/integration/test_deploy_files.py",  # `caddy adapt`: it may not listen here
    r"kubectl": "tests/integration/test_kubernetes.py",  # judged: there is no cluster
    r"redis-cli .*--rdb": "tests/e2e/test_growing.py",  # by DUMP and RESTORE: no redis-cli comes with our server
}
PG: Final = next((b for b in postgres_installations().values() if (b / "pg_restore").exists()), None)

pytestmark = pytest.mark.timeout(120)


def printed(page: Path) -> Iterator[str]:
    """Every command line of a page."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        yield from (line.split(" #")[0].strip() for line in block.splitlines() if line.strip())


@pytest.mark.parametrize("page", [README, DEPLOY], ids=lambda page: page.name)
def test_every_printed_command_is_run_somewhere(page: Path) -> None:
    """A new one needs a place."""
    places = {line: [at for form, at in RUN_IN.items() if re.match(form, line)] for line in printed(page)}
    assert len(places) >= 5
    assert [line for line, at in places.items() if not at] == []
    assert [at for found in places.values() for at in found if not (ROOT / at).exists()] == []


def test_make_runs_what_the_tests_run() -> None:
    """`make demo` is tests/e2e/test_demo.py's command, `make test` is CI's."""
    asked = {
        name: subprocess.run(
            ["/usr/bin/env", "make", "-n", name], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
        for name in ("demo", "test")
    }
    assert re.search(r"^\.venv/bin/python -m daemon demo *$", asked["demo"].stdout, re.MULTILINE)
    assert "-m pytest" in asked["test"].stdout and "make test" in (ROOT / ".ci" / "run").read_text()


class Shell:
    """Runs printed lines; `python` is ours, settings are `variables`."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.directory = directory
        path = f"{Path(sys.executable).parent}:{PG}:{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if k.startswith(("COVERAGE_", "COV_CORE_"))}
        self.env = {**kept, "PATH": path, "HOME": str(directory), "PYTHONPATH": str(ROOT), **variables}

    def run(self, line: str, *good: int) -> str:
        """What it said; it ended with one of `good`, 0 if none is named."""
        found = subprocess.run(
            ["/bin/sh", "-eu", "-c", line], cwd=self.directory, env=self.env, capture_output=True, text=True,
            timeout=90, check=False,
        )  # fmt: skip
        assert found.returncode in (good or (0,)), f"{line}\n{found.stdout}{found.stderr}"
        return found.stdout + found.stderr

    def start(self, line: str) -> subprocess.Popen[bytes]:
        """Goes on."""
        return subprocess.Popen(["/bin/sh", "-eu", "-c", f"exec {line}"], cwd=self.directory, env=self.env)


@pytest.fixture
def shell(redis_url: str, postgres_url: str, tmp_path: Path) -> Shell:
    """With the variables that README and operate.md call enough, and ports that are free."""
    return Shell(
        tmp_path, REDIS_URL=redis_url, DATABASE_URL=postgres_url, WORKER_BASE_URL="http://127.0.0.1:1",
        QSTASH_CURRENT_SIGNING_KEY="sig_a", QSTASH_NEXT_SIGNING_KEY="sig_b", DEEPSEEK_API_KEY="sk-x",
        DEEPSEEK_BASE_URL="http://127.0.0.1:1", RELAY_PORT=str(free_port()), OPS_PORT=str(free_port()),
    )  # fmt: skip


def answers(port: str) -> bool:
    """Whether it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def test_the_readme_runs(shell: Shell, wait_until: WaitUntil) -> None:
    """Migrate ends, relay and daemon are ready side by side and stop cleanly."""
    [block] = blocks(README, "## Run it")
    migrate, relay, daemon = block.splitlines()
    shell.run(migrate)
    processes = [shell.start(relay), shell.start(daemon)]
    try:
        for port in (shell.env["RELAY_PORT"], shell.env["OPS_PORT"]):
            await wait_until(lambda port=port: answers(port), description=f"ready at {port}", within_s=30)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(30) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_the_doctor_is_asked_as_printed(shell: Shell) -> None:
    """Nobody is at the addresses: it says so, and ends with 1."""
    [line] = [found for found in printed(DEPLOY) if "doctor --providers" in found]
    said = shell.run(line, 1)
    assert "relay.signed" in said and "provider.deepseek" in said


@pytest.mark.skipif(PG is None, reason="Postgres with pg_dump is not installed")
def test_results_come_back_from_a_backup(shell: Shell) -> None:
    """Dumped, dropped, restored, migrated: the row is there, and the doctor finds the schema of this release."""
    dump, restore = blocks(DEPLOY, "## Back up, restore")
    lines = [line for line in (dump + restore).splitlines() if not line.startswith("redis-cli")]
    assert len(lines) == 4
    with EmbeddedPostgres(binaries=PG, tcp=True) as server:
        shell.env["DATABASE_URL"] = server.url
        shell.run("python -m daemon migrate")
        publish = "INSERT INTO qstreamd.prompt_templates (name, version, prompt) VALUES ('kept', 1, 'x')"
        asyncio.run(_execute(server.url, publish))
        shell.run(lines[0])
        asyncio.run(_execute(server.url, "DROP SCHEMA qstreamd CASCADE"))
        for line in lines[1:3]:
            shell.run(line)
        said = shell.run(lines[3], 1)
        assert "the schema is that of this release" in said
        assert asyncio.run(_execute(server.url, "SELECT name FROM qstreamd.prompt_templates")) == "kept"


async def _execute(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close(timeout=5)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_same_users_go_the_new_way_each_time(tmp_path: Path) -> None:
    """About the share that was asked for; a larger share keeps those of a smaller one; the named ones always."""
    [code] = blocks(DEPLOY, "## From the old path, by percentage", "js")
    (tmp_path / "goes-new.mjs").write_text(code)
    (tmp_path / "try.mjs").write_text("""
        import { goesNew } from "./goes-new.mjs";
        const users = Array.from({ length: 10000 }, (_, n) => `user-${n}`);
        const go = (percent) => users.filter((user) => goesNew(user, percent));
        const ten = go(10), half = new Set(go(50));
        console.log(JSON.stringify([go(0).length, ten.length, half.size, go(100).length,
          ten.every((user) => half.has(user)), goesNew("me", 0, ["me"])]));
    """)
    found = nodejs.run(tmp_path, "try.mjs")
    none, ten, half, everybody, kept, named = json.loads(found.stdout)
    assert (none, everybody, kept, named) == (0, 10000, True, True)
    assert 900 < ten < 1100 and 4800 < half < 5200
