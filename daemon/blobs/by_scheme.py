"""One `Blobs` port over several stores: the scheme before the colon picks the store."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.blobs.inline import decode
from daemon.calls import Picture
from daemon.contracts import ImageRef
from daemon.errors import Code, Rejected
from daemon.ports import Blobs


class BlobsByScheme:
    """`stores` by scheme. `data:` (inline in `task_context`) needs no store."""

    def __init__(self, stores: Mapping[str, Blobs]) -> None:
        self._stores = dict(stores)

    async def read(self, reference: str) -> Picture:
        """The picture. Raises `Rejected` with IMAGE_NOT_FOUND, or IMAGE_REJECTED when its bytes or its scheme won't do."""
        scheme = reference.partition(":")[0].lower()
        if scheme == "data":
            return decode([ImageRef(data=reference)])[0]
        store = self._stores.get(scheme)
        if store is None:
            raise Rejected(f"images: {scheme!r} references are not configured on this server", code=Code.IMAGE_REJECTED)
        return await store.read(reference)
