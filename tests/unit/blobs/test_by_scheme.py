from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

import pytest

from daemon.blobs.by_scheme import BlobsByScheme
from daemon.domain.errors import Code, DiskFull, Rejected
from daemon.domain.model_io import Picture
from tests.unit.blobs.pictures import PNG


class Store:
    """Remembers what it was asked."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.dropped: list[tuple[list[str], str]] = []

    async def read(self, reference: str, user_id: str) -> Picture:
        return Picture(f"{self.name} {user_id}", reference.encode())

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        self.dropped.append((list(references), user_id))
        if self.fails:
            raise DiskFull(self.name)


async def test_the_scheme_picks_the_store() -> None:
    blobs = BlobsByScheme({"file": Store("a"), "key": Store("b")})
    assert (await blobs.read("key:x:y", "u1")).mime_type == "b u1"
    assert (await blobs.read(f"data:;base64,{b64encode(PNG).decode()}", "u1")).data == PNG


async def test_a_scheme_that_nobody_serves_is_a_missing_image() -> None:
    """The operator learns that the daemon has no bucket; the user that the image is not there."""
    with pytest.raises(Rejected) as caught:
        await BlobsByScheme({}).read("key:x", "u1")
    assert caught.value.code is Code.IMAGE_NOT_FOUND
    assert "'key'" in caught.value.detail


async def test_each_store_drops_its_own_even_when_another_fails() -> None:
    first, second = Store("a", fails=True), Store("b")
    blobs = BlobsByScheme({"file": first, "disk": second})
    with pytest.raises(DiskFull):
        await blobs.drop(["file:1", "disk:2", "file:3", "key:4", "data:x"], "u1")
    assert first.dropped == [(["file:1", "file:3"], "u1")]
    assert second.dropped == [(["disk:2"], "u1")]
