"""Scripts as they are loaded."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from daemon.redis_client.scripts import load_scripts


def test_a_script_is_known_by_its_hash() -> None:
    """The server answers to SHA-1 of exactly this source."""
    for script in load_scripts("queues").values():
        assert script.sha == hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()


def test_a_script_stands_behind_what_it_uses_of_the_preludes() -> None:
    """What a used block uses is there too, before it; nothing else is, and no prelude is a script."""
    scripts = load_scripts("limiter")
    own = (files("daemon.limiter") / "lua" / "renew_permits.lua").read_text("utf-8")
    source = scripts["renew_permits"].source
    assert source.endswith(own) and "prelude" not in scripts
    before = source.removesuffix(own)
    positions = [before.find(f"local {block}") for block in ("function server_ms", "now", "function holds")]
    assert positions == sorted(positions) and positions[0] > 0
    assert "function reserve_for_waiters" not in before and "function is_owner" not in before
