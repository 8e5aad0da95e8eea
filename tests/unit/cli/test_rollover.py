"""What `rollover` prints and how it ends; what it does is in tests/unit/admin/test_rollover.py."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from daemon.cli import rollover as module
from tests.unit.admin.test_rollover import NEW, FakeHost, FakeUnits, running


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    """A host run by systemd, as root."""
    made = FakeHost()
    monkeypatch.setattr(module, "SYSTEMD", tmp_path)
    monkeypatch.setattr(module, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(module, "Files", lambda: made)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def invoke(monkeypatch: pytest.MonkeyPatch, units: FakeUnits, *arguments: str) -> Result:
    """One run."""
    monkeypatch.setattr(module, "Systemctl", lambda: units)
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    return CliRunner().invoke(module.command, arguments)


def test_steps_go_to_stderr_and_the_end_to_stdout(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a table, or as one document."""
    result = invoke(monkeypatch, FakeUnits(host, running("paid-a")))
    assert result.exit_code == 0 and "paid: qstreamd@paid-b is ready after" in result.stderr
    assert "qstreamd@paid-b" in result.stdout and "replaced the old one" in result.stdout
    result = invoke(monkeypatch, FakeUnits(host, running("paid-a")), "--json", "paid")
    [told] = json.loads(result.stdout)["rolled_over"]
    assert (told["action"], told["unit"], told["release"]) == ("rolled", "qstreamd@paid-b", NEW)
    assert told["stopped"] == ["qstreamd@paid-a"] and told["drained_s"] >= 0


def test_where_nothing_runs_it_says_how_to_start(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, FakeUnits(host))
    assert (result.exit_code, result.stdout) == (0, "No daemon runs.\n") and "rollover NAME" in result.stderr


def test_refusals_end_with_a_cure(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 for memory, 2 for a name that nobody knows."""
    host.free = 0
    result = invoke(monkeypatch, FakeUnits(host, running("paid-a")))
    assert result.exit_code == 1 and "0 MiB available, 192 MiB needed" in result.stderr and "--force" in result.stderr
    result = invoke(monkeypatch, FakeUnits(host), "nobody")
    assert result.exit_code == 2 and "names with settings: free, paid" in result.stderr


def test_only_root_on_a_host_with_systemd_and_one_at_a_time(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """2, 2 and 75: the last one may be tried again."""
    units = FakeUnits(host, running("paid-a"))
    with module.LOCK.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        result = invoke(monkeypatch, units)
        assert result.exit_code == 75 and "another rollover runs" in result.stderr
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = invoke(monkeypatch, units)
    assert result.exit_code == 2 and "sudo qstreamd rollover" in result.stderr
    monkeypatch.setattr(module, "SYSTEMD", Path("/nowhere"))
    result = invoke(monkeypatch, units)
    assert result.exit_code == 2 and "systemd does not run this host" in result.stderr
    assert units.did == []
