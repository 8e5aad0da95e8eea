"""A fake QStash whose clock stands still, the official client for it, and somebody to call."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from qstash import AsyncQStash

from daemon.dev.fake_qstash import FakeQstash
from tests.integration.dev.qstash_receiver import Receiver, official_client, receiving


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
async def fake() -> AsyncIterator[FakeQstash]:
    async with FakeQstash(speed=0) as running:
        yield running


@pytest.fixture
async def client(fake: FakeQstash) -> AsyncIterator[AsyncQStash]:
    async with official_client(fake) as running:
        yield running
