"""The demo's page in a real browser, at a real gateway: followed through cuts, uploaded, cancelled, told in words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.dev.demo.backend import Backend
from daemon.domain.messages import content_sha256
from tests.browser import Page, chromium
from tests.e2e.gateway_world import World, world
from tests.unit.blobs.pictures import PNG

pytestmark = pytest.mark.timeout(120)

TEXT = "document.querySelector('#output').textContent"
PHASE = "document.body.dataset.phase"
LOST = "Number(document.querySelector('#facts').dataset.lost)"
Opened = Callable[..., AbstractAsyncContextManager[tuple[World, Backend, Page]]]


@pytest.fixture
def opened(redis_url: str, postgres_url: str, tmp_path: Path) -> Opened:
    """All processes, the page's server, and a browser that has it open."""

    @asynccontextmanager
    async def open_page(**models: Any) -> AsyncIterator[tuple[World, Backend, Page]]:
        gateway: list[str] = []
        async with chromium(tmp_path) as browser, Backend(lambda: gateway[0]) as backend:
            settings = {**backend.gateway_settings, "BLOB_DIR": str(tmp_path / "blobs")}
            more: dict[str, Any] = {**settings, "QSTREAMD_BLOB_DISK_FREE_BYTES_MIN": "0"}
            async with world(redis_url, postgres_url, models=models, **more) as front:
                gateway.append(front.url)
                page = await browser.open(backend.url)
                await page.until("document.querySelector('#preview')?.src")
                yield front, backend, page

    return open_page


async def click(page: Page, selector: str) -> None:
    await page.run(f"document.querySelector({selector!r}).click()")


async def test_two_lost_connections_cost_no_character(opened: Opened) -> None:
    """EventSource comes back by itself where it was; the text on the page has the hash of `done`, and is the result."""
    async with opened(tokens_per_s=25.0, words=120) as (front, backend, page):
        await click(page, "#send")
        for cut in (1, 2):
            before = len(await page.run(TEXT))
            await page.until(f"{TEXT}.length > {before + 20}")
            assert backend.line.cut() >= 1
            await page.until(f"{LOST} === {cut}")
            assert "Connection lost" in await page.run("document.querySelector('#notice').textContent")
        await page.until("document.querySelector('#proof').dataset.equal")
        text = await page.run(TEXT)
        row = await front.postgres.fetchrow("SELECT content, content_sha256 FROM qstreamd.results")
        assert row is not None
        assert (text, content_sha256(text)) == (row["content"], row["content_sha256"])
        assert row["content_sha256"] in await page.run("document.querySelector('#proof').textContent")
        assert (await page.run("document.querySelector('#proof').dataset.equal"), await page.run(LOST)) == ("true", 2)


async def test_a_picture_is_uploaded_and_a_task_cancelled(opened: Opened, tmp_path: Path) -> None:
    """Ticket, upload, task with the `fileId`; a refusal and a cancel in the user's words. On a phone, in Chinese."""
    async with opened() as (front, backend, page):
        await page.size(390, 844)
        await click(page, "#language")
        for mode in ("vision", "free"):
            await click(page, f"[value={mode}]")
        (tmp_path / "drawing.jpg").write_bytes(b"<svg xmlns='x'></svg>")
        await page.put_file("#file", tmp_path / "drawing.jpg")
        await click(page, "#send")
        await page.until("document.querySelector('#notice').textContent.includes('无法使用该图片')")
        (tmp_path / "cat.jpg").write_bytes(PNG)
        await page.put_file("#file", tmp_path / "cat.jpg")
        await click(page, "#send")
        await page.until("document.querySelector('#proof').dataset.equal === 'true'")
        row = await front.postgres.fetchrow("SELECT queue_id, message FROM qstreamd.tasks")
        assert row is not None and row["queue_id"] == "q_free_vision"
        assert [call.images for call in front.models.calls] == [1]
        assert await page.run("document.documentElement.scrollWidth") <= 390

        front.models.plan("stall-first")
        await click(page, "[value=stream]")
        await click(page, "#send")
        await page.until(f"{PHASE} === 'running'")
        await click(page, "#cancel")
        await page.until(f"{PHASE} === 'cancelled'")
        assert "任务已取消" in await page.run("document.querySelector('#notice').textContent")
        seen = await page.run("fetch('/').then(r => r.text())") + await page.run(
            "fetch('/api/demo').then(r => r.text())"
        )
        assert backend.api_key not in seen
