"""Scripts as they are loaded."""

from __future__ import annotations

import hashlib

from daemon.redis_client.scripts import load_script


def test_a_script_is_known_by_its_hash() -> None:
    """The server answers to SHA-1 of exactly this source; parts that it builds on come before it."""
    script = load_script("limiter", "guard_enter", "places")
    assert script.sha == hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()
    assert script.source == load_script("limiter", "places").source + load_script("limiter", "guard_enter").source
