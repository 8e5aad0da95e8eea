"""The same world as in `tests/e2e`."""

from __future__ import annotations

from tests.e2e.conftest import world as world
