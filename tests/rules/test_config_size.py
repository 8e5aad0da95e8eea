"""How much of reading settings is our own; see docs/decisions/0003-pydantic-settings.md."""

from __future__ import annotations

from typing import Final

from tests.rules.tree import files

OWN_LINES: Final = 350  # comments and docstrings included, blank lines not
#: what declares: settings, profiles and rules as tables, the forms of `REDIS_URL` (which the Redis client parses, too),
#: and the names that the package hands on
DECLARATIONS: Final = {"settings.py", "profiles.py", "rules.py", "redis_url.py", "__init__.py"}


def test_our_own_code_for_settings_stays_small() -> None:
    """Everything in `daemon/config/` that is no declaration, whatever the files are called."""
    sizes = {
        path.name: sum(bool(line.strip()) for line in path.read_text("utf-8").splitlines())
        for path in files("daemon/config", suffix=".py")
        if path.name not in DECLARATIONS
    }
    assert sum(sizes.values()) <= OWN_LINES, f"{sizes}: ask pydantic-settings first, or shorten something else"
