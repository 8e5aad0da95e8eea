"""Every package that we chose is explained."""

from __future__ import annotations

import re

from tests.rules.test_locks import locked, wanted
from tests.rules.tree import ROOT


def test_every_dependency_has_its_line() -> None:
    """docs/dependencies.md names each package with the version that is locked, and none that is gone."""
    text = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) ([0-9][^ |]*)", text, flags=re.MULTILINE))
    versions = locked("dev")
    names = {requirement.name.lower() for requirement in wanted()["dev"]}
    assert set(rows) == names
    assert {name: version for name, version in rows.items() if not versions[name].startswith(version)} == {}
