"""Connection pools as gauges, asked at each scrape; costs no round trip."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from daemon.metrics import Metrics


def show_pool(metrics: Metrics, server: str, sizes: Callable[[], tuple[int, int]], most: int) -> None:
    """Show how many connections are (used, idle), as `sizes` tells, and how many there may be."""
    metrics.connections_max.labels(server).set(most)
    for at, state in enumerate(("used", "idle")):
        metrics.connections.labels(server, state).set_function(partial(_item, sizes, at))


def _item(sizes: Callable[[], tuple[int, int]], at: int) -> int:
    return sizes()[at]
