"""Pools are asked when somebody scrapes."""

from __future__ import annotations

from daemon.metrics import Metrics
from daemon.worker.pools import show_pool


def test_a_scrape_shows_the_pool_as_it_is_then() -> None:
    """Used and idle apart, beside the most there may be."""
    metrics, sizes = Metrics(process=False), (1, 4)
    show_pool(metrics, "postgres", lambda: sizes, 10)
    sizes = (3, 2)
    text = metrics.render().decode()
    assert 'qstreamd_connections{server="postgres",state="used"} 3.0' in text
    assert 'qstreamd_connections{server="postgres",state="idle"} 2.0' in text
    assert 'qstreamd_connections_max{server="postgres"} 10.0' in text
