from __future__ import annotations

import os
from pathlib import Path

from daemon.blobs.orphans import StoredFile, doubtful, exclusive_lock, list_files, outdated, remove
from daemon.config import BlobSettings

SETTINGS = BlobSettings(upload_ttl_s=1000, upload_timeout_s=100, disk_bytes_max=1000)
NAME = "A" * 22 + ".q_a.b.t-1"


def due(*files: StoredFile, settings: BlobSettings = SETTINGS) -> dict[str, str]:
    return {file.name: why for file, why in outdated(files, settings, 5000).items()}


def test_each_kind_of_file_has_its_age() -> None:
    """A part outlives the longest upload, an upload its day, an inline image its week."""
    files = [
        StoredFile(folder, f"{folder} {age}", 1, age)
        for folder, limit in (("incoming", 160), ("uploads", 1000), ("inline", 5000))
        for age in (limit, limit + 1)
    ]
    assert due(*files) == {"incoming 161": "part", "uploads 1001": "old", "inline 5001": "old"}


def test_a_file_from_the_future_stays() -> None:
    assert due(StoredFile("uploads", "x", 1, -500)) == {}


def test_when_room_is_short_the_oldest_uploads_go() -> None:
    """Down to four fifths of the share, and none that may still have a task; accepted images never."""
    settings = BlobSettings(upload_ttl_s=90_000, disk_bytes_max=1000)
    files = [StoredFile("uploads", f"u{age}", 200, age) for age in (3601, 3603, 3602, 10)] + [
        StoredFile("inline", NAME, 150, 4000)
    ]
    assert due(*files, settings=settings) == {"u3603": "share"}
    more = [*files, StoredFile("inline", "B" * 22 + ".q.t", 700, 4000)]
    assert due(*more, settings=settings) == dict.fromkeys(("u3603", "u3602", "u3601"), "share")
    assert due(*files[:2], settings=settings) == {}


def test_only_inline_images_of_some_age_are_doubted() -> None:
    """The relay lays an image down seconds before it accepts the task."""
    old, young = StoredFile("inline", NAME, 1, 61), StoredFile("inline", NAME, 1, 59)
    odd = StoredFile("inline", "what", 1, 61)
    assert doubtful([old, young, odd, StoredFile("uploads", NAME, 1, 61)]) == {old: ("q_a.b", "t-1")}


def test_what_lies_there_is_listed_and_removed(tmp_path: Path) -> None:
    assert list_files(tmp_path, 0) == []
    (tmp_path / "inline").mkdir()
    path = tmp_path / "inline" / NAME
    path.write_bytes(b"123")
    os.utime(path, (100, 100))
    files = list_files(tmp_path, 160)
    assert files == [StoredFile("inline", NAME, 3, 60.0)]
    remove(tmp_path, files)
    remove(tmp_path, files)
    assert list_files(tmp_path, 160) == []


def test_one_process_sweeps_at_a_time(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path) as first, exclusive_lock(tmp_path) as second:
        assert (first, second) == (True, False)
    with exclusive_lock(tmp_path) as again:
        assert again
    with exclusive_lock(tmp_path / "nowhere") as nothing:
        assert not nothing
