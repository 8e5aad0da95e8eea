"""The lock files: the same bytes from any index, or an error."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.rules.tree import ROOT

LINE = re.compile(r"^([a-z0-9-]+)==([^ ;]+)( ; [^\\]+)?( \\)?$|^    --hash=sha256:[0-9a-f]{64}( \\)?$")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def locked(name: str) -> dict[str, str]:
    """Package and version of each line."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8")
    return {match[1]: match[2] for line in text.splitlines() if (match := LINE.match(line)) and match[1]}


def wanted() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by lock file; without the part of ourselves that a checkout has anyway."""
    run = PROJECT["project"]["dependencies"]
    extras = PROJECT["project"]["optional-dependencies"]
    demo = run + [line for line in extras["demo"] if not line.startswith("qstreamd-dev")]
    dev = demo + extras["images"] + extras["otel"] + PROJECT["dependency-groups"]["dev"]
    return {name: [Requirement(line) for line in lines] for name, lines in (("run", run), ("demo", demo), ("dev", dev))}


@pytest.mark.parametrize("name", ["run", "demo", "dev"])
def test_a_lock_file_holds_names_versions_and_hashes_only(name: str) -> None:
    """No host, no path, no option: pip uses the index of the machine it runs on."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8")
    assert [line for line in text.splitlines() if not LINE.match(line)] == []
    assert all("--hash=" in package for package in re.split(r"\n(?=\S)", text))


@pytest.mark.parametrize("name", ["run", "demo", "dev"])
def test_a_lock_file_fits_the_project(name: str) -> None:
    """Run `make lock` when this fails."""
    versions = locked(name)
    unmet = [
        str(requirement)
        for requirement in wanted()[name]
        if not requirement.specifier.contains(
            versions.get(canonicalize_name(requirement.name), "0.dev0"), prereleases=True
        )
    ]
    assert unmet == []


def test_the_smaller_locks_are_parts_of_the_larger() -> None:
    """What is tested is what runs."""
    run, demo, dev = locked("run").items(), locked("demo").items(), locked("dev").items()
    assert run <= demo <= dev
