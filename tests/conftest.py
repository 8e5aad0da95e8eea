"""Real servers for every test that asks for one, started by the suite itself, gone with it.

    redis_url, redis_settings         an empty database of a real server; `--redis=cluster`: of three nodes
    postgres_url, postgres_settings   a database of its own, cloned from a migrated template
    pool                              connected to that database
    new_database                      makes more of them
    redis_server, postgres_server     a server of its own that the test may kill, pause and restart
    no_key_left                       after the test: nothing pending, no key without an end of life
    wait_until                        waits for a fact
    whole                             whether the long suites run in full length (`--whole`)
    minutes                           how long the steady load goes on (`--minutes`)

`pytestmark = pytest.mark.postgres_versions` (or `redis_versions`) runs a test on each server this machine has.
TEST_REDIS_URL and TEST_DATABASE_URL name servers to use instead; the Redis database must be empty, on Postgres only
databases named `qstreamd_test_…` are made and dropped. REDIS_URL and DATABASE_URL are never touched.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import redis
import uvloop

from daemon.config import PostgresSettings, RedisSettings, catalogue
from daemon.config.types import SecretStr
from daemon.dev.embedded_postgres import EmbeddedPostgres, postgres_installations
from daemon.dev.embedded_redis import EmbeddedRedis, redis_installations
from daemon.store.migrate import migrate
from daemon.store.pool import Pool
from tests import last_words, waiting
from tests.leaks import Leaks
from tests.redis_clusters import EmbeddedCluster

REDIS = redis_installations()
POSTGRES = postgres_installations()


def pytest_configure(config: pytest.Config) -> None:
    """A developer's own settings must not reach the tests or the processes they start."""
    config.addinivalue_line("markers", "long: runs only with --whole; `make test` holds a sample of its kind")
    config.addinivalue_line("markers", "redis_forms(*forms): server or cluster, where a suite runs on both otherwise")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; our children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    names = {entry.name for _, entry in catalogue()}
    for name in list(os.environ):
        if name in names or name.removesuffix("_FILE") in names or name.startswith("QSTREAMD_"):
            del os.environ[name]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that production runs on."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each installed server where the marker asks for it."""
    for mark, fixture, installed in (
        ("redis_versions", "redis_version", REDIS),
        ("postgres_versions", "postgres_version", POSTGRES),
    ):
        if metafunc.definition.get_closest_marker(mark) and fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, list(installed), indirect=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make chaos` runs the long suites whole; `make test` runs samples of them."""
    parser.addoption("--whole", action="store_true", help="run long suites in full length")
    parser.addoption("--redis", choices=("server", "cluster"), default="server", help="what REDIS_URL names in tests")
    parser.addoption("--minutes", type=float, default=2.0, help="how long the steady load of tests/chaos goes on")
    parser.addoption("--point", default="", help="of the crash points of tests/chaos those whose name holds this")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long ones to `make chaos`."""
    if config.getoption("--whole"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Words of earlier tests are no part of this one's failure."""
    last_words.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the last lines of every process that the test started: in CI nobody can look at its log."""
    report = yield
    if report.failed:
        report.sections += [(f"last words of {name}", words) for name, words in last_words.told()]
    return report


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether the long suites run in full length."""
    return bool(request.config.getoption("--whole"))


@pytest.fixture(scope="session")
def minutes(request: pytest.FixtureRequest) -> float:
    """How long the steady load goes on."""
    return float(request.config.getoption("--minutes"))


@pytest.fixture(scope="session")
def wait_until() -> waiting.WaitUntil:
    """The first true answer of a predicate, or a failure that says what was seen: see `tests.waiting`."""
    return waiting.wait_until


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_version(request: pytest.FixtureRequest) -> str:
    """Which server: the default one, or each (marker `redis_versions`)."""
    return str(getattr(request, "param", next(iter(REDIS))))


@pytest.fixture(scope="session")
def _redis_server_of() -> Iterator[Callable[[str], str]]:
    """URL by version; servers start when first asked for and live as long as the session."""
    urls: dict[str, str] = {}
    with ExitStack() as servers:

        def url_of(version: str) -> str:
            given = os.environ.get("TEST_REDIS_URL")
            if version not in urls and given:
                urls[version] = _empty_redis(given)
            if version not in urls:
                server = servers.enter_context(EmbeddedRedis(persist=False, binary=REDIS[version]))
                urls[version] = server.url
            return urls[version]

        yield url_of


def _empty_redis(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        size = int(client.dbsize())
    if size:
        pytest.exit(f"TEST_REDIS_URL holds {size} keys; the tests flush that database, so give them an empty one", 4)
    return url


@pytest.fixture(scope="session")
def cluster_of() -> Iterator[Callable[[str], EmbeddedCluster]]:
    """Three nodes by version; they start when first asked for and live as long as the session."""
    made: dict[str, EmbeddedCluster] = {}
    with ExitStack() as clusters:

        def of(version: str) -> EmbeddedCluster:
            if version not in made:
                made[version] = clusters.enter_context(EmbeddedCluster(binary=REDIS[version]))
            return made[version]

        yield of


@pytest.fixture
def redis_form(request: pytest.FixtureRequest) -> str:
    """`server` or `cluster`: what `redis_url` names."""
    return str(getattr(request, "param", request.config.getoption("--redis")))


@pytest.fixture
def redis_url(
    request: pytest.FixtureRequest, redis_version: str, redis_form: str, _redis_server_of: Callable[[str], str]
) -> str:
    """An empty database of a real server, or an empty cluster, shared by all tests, one after another."""
    if redis_form == "cluster":
        cluster: EmbeddedCluster = request.getfixturevalue("cluster_of")(redis_version)
        cluster.flush()
        return cluster.url
    url = _redis_server_of(redis_version)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def redis_settings(redis_url: str) -> RedisSettings:
    """Settings for `redis_url`, all else as shipped."""
    return RedisSettings(url=SecretStr(redis_url))


@pytest.fixture
def redis_server(redis_version: str) -> Iterator[EmbeddedRedis]:
    """A durable server of the test's own: kill, pause, restart."""
    with EmbeddedRedis(persist=True, binary=REDIS[redis_version]) as server:
        yield server


@pytest.fixture
def no_key_left(redis_url: str) -> Iterator[Leaks]:
    """After the test nothing is pending and every key has an end of life; `allow` names exceptions."""
    leaks = Leaks(redis_url)
    yield leaks
    found = leaks.find()
    assert not found, "left behind in Redis:\n" + "\n".join(found)


# --- Postgres ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres_version(request: pytest.FixtureRequest) -> str:
    """Which major version: the default one, or each (marker `postgres_versions`)."""
    return str(getattr(request, "param", next(iter(POSTGRES))))


@pytest.fixture(scope="session")
def _postgres_server_of() -> Iterator[Callable[[str], tuple[str, str]]]:
    """URL of the server and name of its migrated template by version; made when first asked for."""
    made: dict[str, tuple[str, str]] = {}
    given = os.environ.get("TEST_DATABASE_URL")
    with ExitStack() as servers:

        def of(version: str) -> tuple[str, str]:
            if version not in made:
                url = given or servers.enter_context(EmbeddedPostgres(binaries=POSTGRES[version])).url
                template = f"qstreamd_test_{secrets.token_hex(4)}"
                in_thread(_execute(url, f"CREATE DATABASE {template}"))
                in_thread(migrate(url_of(url, template)))
                made[version] = url, template
            return made[version]

        yield of
        if given:
            for url, template in made.values():
                in_thread(_execute(url, f"DROP DATABASE {template}"))


@pytest.fixture
def new_database(
    postgres_version: str, _postgres_server_of: Callable[[str], tuple[str, str]]
) -> Callable[[], AbstractContextManager[str]]:
    """Makes a migrated database that lives as long as the block; for tests that need many."""
    url, template = _postgres_server_of(postgres_version)

    @contextmanager
    def database() -> Iterator[str]:
        name = f"qstreamd_test_{secrets.token_hex(4)}"
        in_thread(_execute(url, f"CREATE DATABASE {name} TEMPLATE {template}"))
        yield url_of(url, name)
        in_thread(_execute(url, f"DROP DATABASE {name} WITH (FORCE)"))

    return database


@pytest.fixture
def postgres_url(new_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """A migrated database of the test's own."""
    with new_database() as url:
        yield url


@pytest.fixture
def postgres_settings(postgres_url: str) -> PostgresSettings:
    """Settings for `postgres_url`, all else as shipped."""
    return PostgresSettings(url=SecretStr(postgres_url))


@pytest.fixture
async def pool(postgres_settings: PostgresSettings) -> AsyncIterator[Pool]:
    """Connected to `postgres_url`, with the settings as shipped."""
    pool = await Pool(postgres_settings).start()
    yield pool
    await pool.close()


@pytest.fixture
def postgres_server(postgres_version: str) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, migrated: kill, pause, restart."""
    with EmbeddedPostgres(binaries=POSTGRES[postgres_version]) as server:
        in_thread(migrate(server.url))
        yield server


def url_of(url: str, database: str) -> str:
    """`url` with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def in_thread(work: Coroutine[Any, Any, object]) -> None:
    """Run `work` to its end on a loop of its own, beside whatever loop the test will use."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result(60)


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(sql, timeout=30)
    finally:
        await connection.close(timeout=5)
