"""The same world as in `tests/e2e`; and what is long runs only with `--whole`."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import world as world


def pytest_configure(config: pytest.Config) -> None:
    """Our own marker."""
    config.addinivalue_line("markers", "long: runs only with --whole; `make test` holds a sample of its kind")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long ones to `make chaos`."""
    if config.getoption("--whole"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
