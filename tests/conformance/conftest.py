"""What the suites of `tests/conformance` run on; each suite's implementations are named in its own file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from daemon.dev.fake_llm import FakeLLM
from daemon.ports import Provider
from tests.conformance import stand_ins
from tests.conformance.stand_ins import Shape, StandIn


@pytest.fixture(scope="session")
def llmock_url() -> Iterator[str]:
    """A third-party model server in Python."""
    with stand_ins.llmock() as url:
        yield url


@pytest.fixture(scope="session")
def aimock_url() -> Iterator[str]:
    """A third-party model server in JavaScript."""
    with stand_ins.aimock() as url:
        yield url


@pytest.fixture
async def fake() -> AsyncIterator[FakeLLM]:
    """Our own fake, fast, in this process: its call log is the server's side of the story."""
    async with FakeLLM(tokens_per_s=2000, first_token_s=0.01, keepalive_s=0.02, drip_s=0.05) as running:
        yield running


@pytest.fixture
async def stand_in(request: pytest.FixtureRequest, fake: FakeLLM) -> StandIn:
    """The server that the test's parameter names, as `server-shape`."""
    server, shape = request.param.split("-")
    if server == "llmock":
        return StandIn("llmock", shape, request.getfixturevalue("llmock_url"), 2.0)
    if server == "aimock":
        return StandIn("aimock", shape, request.getfixturevalue("aimock_url"), 1.0, counts=shape == "openai")
    return StandIn("fake", shape, fake.url, 2.0)


@pytest.fixture
async def provider(stand_in: StandIn) -> AsyncIterator[Provider]:
    """The adapter for the test's server."""
    async with AsyncExitStack() as stack:
        found = stand_in.provider()
        stack.push_async_callback(found.aclose)
        yield found


@pytest.fixture(params=["openai", "gemini"])
def fake_stand_in(request: pytest.FixtureRequest, fake: FakeLLM) -> StandIn:
    """Our fake in each shape, for what only it can show."""
    shape: Shape = request.param
    return StandIn("fake", shape, fake.url, 2.0)


@pytest.fixture
async def fake_provider(fake_stand_in: StandIn) -> AsyncIterator[Provider]:
    """The adapter for our fake."""
    found = fake_stand_in.provider()
    yield found
    await found.aclose()
