"""One `Blobs` port over several stores: the scheme before the colon picks the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from daemon.blobs.inline import decode
from daemon.domain.errors import Code, DependencyAway, Rejected
from daemon.domain.messages import ImageRef
from daemon.domain.model_io import Picture
from daemon.ports import Blobs


class BlobsByScheme:
    """`stores` by scheme. `data:` (inline in `task_context`) needs no store."""

    def __init__(self, stores: Mapping[str, Blobs]) -> None:
        self._stores = dict(stores)

    async def read(self, reference: str, user_id: str) -> Picture:
        """The picture. Raises as the store does, and IMAGE_REJECTED for a scheme that is not configured."""
        scheme = _scheme(reference)
        if scheme == "data":
            return decode([ImageRef(data=reference)])[0]
        store = self._stores.get(scheme)
        if store is None:
            raise Rejected(code=Code.IMAGE_NOT_FOUND, detail=f"{scheme!r} references are not configured on this daemon")
        return await store.read(reference, user_id)

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        """Each store drops its own; of several that fail the last is told."""
        of_store: defaultdict[str, list[str]] = defaultdict(list)
        for reference in references:
            of_store[_scheme(reference)].append(reference)
        failed: Exception | None = None
        for scheme, mine in of_store.items():
            if scheme in self._stores:
                try:
                    await self._stores[scheme].drop(mine, user_id)
                except DependencyAway as error:
                    failed = error
        if failed is not None:
            raise failed


def _scheme(reference: str) -> str:
    return reference.partition(":")[0].lower()
