from __future__ import annotations

import os
import pwd
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from daemon.dev.embedded import EmbeddedError, children, free_port
from daemon.dev.embedded_postgres import EmbeddedPostgres, embedded_postgres, postgres_installations


async def ask(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await connection.fetchval(sql, timeout=5)
    finally:
        await connection.close(timeout=5)


@pytest.fixture
def server(postgres_version: str) -> EmbeddedPostgres:
    """Not started yet."""
    return EmbeddedPostgres(binaries=postgres_installations()[postgres_version])


@pytest.mark.postgres_versions
async def test_each_installed_version_serves(server: EmbeddedPostgres, postgres_version: str) -> None:
    """The one that was asked for."""
    with server:
        assert str(await ask(server.url, "SHOW server_version")).startswith(f"{postgres_version}.")


@pytest.mark.postgres_versions
async def test_what_was_committed_survives_kill_and_restart(server: EmbeddedPostgres) -> None:
    """Without fsync, which only a loss of power would show; the address stays."""
    with server:
        url = server.url
        await ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
        server.kill()
        server.start()
        assert server.url == url
        assert await ask(url, "SELECT n FROM kept") == 7


@pytest.mark.postgres_versions
async def test_a_kill_cuts_connections_and_the_next_start_is_not_hindered(server: EmbeddedPostgres) -> None:
    """Each connection is a process; one that outlived the server would keep the new one from starting."""
    with server:
        connection = await asyncpg.connect(server.url, timeout=5)
        before = set(children(server.pid))
        server.kill()
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError, asyncpg.InterfaceError)):
            await connection.fetchval("SELECT 1", timeout=2)
        server.start()
        assert not before & set(children(server.pid))


async def test_a_paused_server_keeps_connections_and_answers_nothing(server: EmbeddedPostgres) -> None:
    """Connections that stand hang too, not only new ones."""
    with server:
        connection = await asyncpg.connect(server.url, timeout=5)
        server.pause()
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT 1", timeout=0.3)
        server.resume()
        connection.terminate()
        assert await ask(server.url, "SELECT 1") == 1


async def test_it_is_reachable_through_its_directory_only(server: EmbeddedPostgres) -> None:
    """No port at all unless asked for."""
    with server:
        assert await ask(server.url, "SHOW listen_addresses") == ""
        owner = server.directory.stat()
        assert owner.st_mode & 0o077 == 0


async def test_over_tcp_it_asks_for_its_password(postgres_version: str) -> None:
    """For clients that know no unix sockets; loopback is open to every user of the machine."""
    with EmbeddedPostgres(tcp=True, binaries=postgres_installations()[postgres_version]) as server:
        parts = urlsplit(server.url)
        assert await ask(server.url, "SELECT 1") == 1
        assert await ask(server.url_of("template1"), "SELECT current_database()") == "template1"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(server.url.replace(str(parts.password), "guess"), "SELECT 1")
        server.restart()
        assert urlsplit(server.url).port == parts.port


async def test_binaries_that_only_we_can_reach_serve_too(tmp_path: Path) -> None:
    """A checkout in root's home: they are copied, and no directory is opened to others."""
    private = tmp_path / "home"
    private.mkdir(mode=0o700)
    package = next(iter(postgres_installations().values())).parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, private / part.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    with EmbeddedPostgres(binaries=private / package.name / "pginstall" / "bin") as server:
        assert await ask(server.url, "SELECT 1") == 1
    assert private.stat().st_mode & 0o777 == 0o700


async def test_it_never_runs_as_root(server: EmbeddedPostgres) -> None:
    """Postgres refuses root; we become nobody, and add no user to the system."""
    accounts = pwd.getpwall()
    with server:
        owner = (server.directory / "data").stat().st_uid
        expected = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
        assert owner == expected
    assert pwd.getpwall() == accounts


async def test_a_durable_server_waits_for_the_disk() -> None:
    """For a demo that is kept, and for measuring."""
    with embedded_postgres(durable=True) as url:
        assert await ask(url, "SHOW fsync") == "on"


async def test_a_given_url_is_used_as_it_is() -> None:
    """DATABASE_URL of a developer: nothing is started."""
    with embedded_postgres("postgresql://example/db") as url:
        assert url == "postgresql://example/db"


def test_a_failing_initdb_is_reported_in_its_own_words(server: EmbeddedPostgres) -> None:
    """With nothing left behind."""
    (server.directory / "data").symlink_to("/proc/nowhere")
    with pytest.raises(EmbeddedError, match=r"initdb failed: .+"), server:
        pass
    assert not server.directory.exists()


def test_a_wrong_option_is_reported_in_the_servers_own_words(postgres_version: str) -> None:
    """At once, not after the time-out."""
    server = EmbeddedPostgres(options={"work_mem": "much"}, binaries=postgres_installations()[postgres_version])
    with pytest.raises(EmbeddedError, match="work_mem"), server:
        pass


def test_a_port_that_was_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until clients know the address, it may change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr("daemon.dev.embedded_postgres.free_port", lambda: next(ports, None) or free_port())
        with EmbeddedPostgres(tcp=True) as server:
            assert urlsplit(server.url).port != taken.getsockname()[1]


def test_a_machine_without_any_server_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's name, or a URL."""
    monkeypatch.setattr("daemon.dev.embedded_postgres.postgres_installations", dict)
    with pytest.raises(EmbeddedError, match="embedded-postgres"):
        EmbeddedPostgres()
