"""Limits, room, and what systemd was told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from daemon.admin.checkup import host
from daemon.config import Settings
from daemon.config.settings import BlobSettings

UNIT = """\
Id=qstreamd@paid.service
Type=notify
TimeoutStopUSec=3min 30s
WatchdogUSec=1min
RestartPreventExitStatus=2 78

Id=qstreamd-relay.service
Type=notify
TimeoutStopUSec=30s
WatchdogUSec=30s
"""


class _Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("3min 30s", 210.0), ("1min", 60.0), ("500ms", 0.5), ("0", 0.0), ("infinity", None), ("1.5h", 5400.0)],
)
def test_times_are_read_as_systemd_writes_them(text: str, wanted: float | None) -> None:
    assert host.span_s(text) == wanted


def test_the_shipped_units_fit() -> None:
    assert [(f.level, f.text) for f in host.units(UNIT, Settings())] == [
        ("ok", "qstreamd@paid.service fits the settings"), ("ok", "qstreamd-relay.service fits"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "level", "words"),
    [
        ("3min 30s", "1min 30s", "error", "is killed after 90 s, but drains up to QSTREAMD_DRAIN_S=180"),
        ("WatchdogUSec=1min\n", "WatchdogUSec=20s\n", "warning", "less than two blocked reads"),
        ("=2 78", "=", "warning", "restarted for ever"),
        ("Type=notify", "Type=simple", "warning", "does not wait until it is ready"),
    ],
)
def test_a_unit_that_does_not_fit_is_named_with_its_cure(old: str, new: str, level: str, words: str) -> None:
    found = host.units(UNIT.replace(old, new, 1), Settings())[0]
    assert found.level == level
    assert words in found.text
    assert found.cure


def test_both_places_of_a_daemon_at_work_are_a_rollover_that_was_cut() -> None:
    """One at work and one that drains, has ended or has failed is as it should be."""
    unit = UNIT.split("\n\n", maxsplit=1)[0] + "\nActiveState=active"
    both = "\n\n".join(unit.replace("@paid", f"@paid-{place}") for place in "ab")
    *_, last = host.units(both, Settings())
    assert (last.level, last.cure) == ("warning", "qstreamd rollover finishes it") and "both run" in last.text
    for state in ("deactivating", "inactive", "failed"):
        found = host.units(both.replace("=active", f"={state}", 1), Settings())
        assert {finding.level for finding in found} == {"ok"}


def test_no_unit_of_ours_is_no_trouble() -> None:
    assert [f.level for f in host.units("", Settings())] == ["info"]


@pytest.mark.parametrize(("soft", "level"), [(1024, "warning"), (65_536, "ok"), (-1, "ok")])
def test_few_files_are_a_warning(soft: int, level: str) -> None:
    assert host.files(soft).level == level


def test_the_directory_for_images_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there yet is fine, since it is made; not writable and full are not."""
    assert host.blob_directory(tmp_path / "a" / "b").level == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(10))
    assert host.blob_directory(tmp_path).level == "warning"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert host.blob_directory(tmp_path).level == "error"


async def test_a_host_without_systemd_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "SYSTEMD", tmp_path / "none")
    settings = Settings(blobs=BlobSettings(store="disk", dir=str(tmp_path)))
    assert [f.check for f in await host.check(settings)] == ["host.files", "host.blobs", "host.systemd"]


async def test_systemctl_is_asked_where_there_is_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in answers as the real one would."""
    stand_in = tmp_path / "systemctl"
    stand_in.write_text(f"#!/bin/sh\ncat <<'END'\n{UNIT}END\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(host, "SYSTEMD", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = [f for f in await host.check(Settings()) if f.check == "host.systemd"]
    assert [f.level for f in found] == ["ok", "ok"]
    stand_in.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(host, "_ASK_S", 0.05)
    found = [f for f in await host.check(Settings()) if f.check == "host.systemd"]
    assert "did not answer" in found[0].text
