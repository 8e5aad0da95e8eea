"""One consumer's view of a real server, on a server and on a cluster."""

from __future__ import annotations

from tests.integration.redis_side import other, pytest_generate_tests, side, three_nodes

__all__ = ["other", "pytest_generate_tests", "side", "three_nodes"]
