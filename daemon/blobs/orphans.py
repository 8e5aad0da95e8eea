"""Which files below BLOB_DIR nobody will ask for any more. `outdated` is pure: files and limits in, reasons out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from daemon.blobs.disk import FOLDERS, INLINE
from daemon.config import BlobSettings

Why = Literal["part", "old", "share"]

PART_GRACE_S: Final = 60.0  #: beyond the longest upload
DOUBT_S: Final = 60.0  #: a file is laid down seconds before its task is accepted
PRESSED_AGE_S: Final = 3600.0  #: when room is short, an upload whose task has not ended by then has none, most likely
PRESSED_FROM, PRESSED_TO = 0.9, 0.8  #: of the share


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file. `age_s`: since its last byte was written."""

    folder: str
    name: str
    size: int
    age_s: float

    @property
    def task(self) -> tuple[str, str] | None:
        """Queue and task of an inline image; None for others."""
        named = INLINE.fullmatch(self.name) if self.folder == "inline" else None
        return (named[1], named[2]) if named else None


def list_files(root: Path, now: float) -> list[StoredFile]:
    """Every file there is; none when there is no such directory. Blocks."""
    found = []
    for folder in FOLDERS:
        try:
            entries = list(os.scandir(root / folder))
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            found.append(StoredFile(folder, entry.name, facts.st_size, now - facts.st_mtime))
    return found


def outdated(files: Iterable[StoredFile], settings: BlobSettings, inline_ttl_s: float) -> dict[StoredFile, Why]:
    """What goes by its age alone, and what goes because the share is nearly used up: uploads, oldest first.

    Inline images never go for want of room: their task was accepted.
    """
    limits: dict[str, tuple[Why, float]] = {
        "incoming": ("part", settings.upload_timeout_s + PART_GRACE_S),
        "uploads": ("old", settings.upload_ttl_s),
        "inline": ("old", inline_ttl_s),
    }
    files = list(files)
    going: dict[StoredFile, Why] = {
        file: limits[file.folder][0] for file in files if file.age_s > limits[file.folder][1]
    }
    staying = [file for file in files if file not in going]
    left = sum(file.size for file in staying)
    if left > settings.disk_bytes_max * PRESSED_FROM:
        for file in sorted(staying, key=lambda file: -file.age_s):
            if left <= settings.disk_bytes_max * PRESSED_TO:
                break
            if file.folder == "uploads" and file.age_s > PRESSED_AGE_S:
                going[file] = "share"
                left -= file.size
    return going


def doubtful(files: Iterable[StoredFile]) -> dict[StoredFile, tuple[str, str]]:
    """Inline images that should be of a task that was accepted and has not ended; with its queue and id."""
    return {file: file.task for file in files if file.task is not None and file.age_s > DOUBT_S}


def remove(root: Path, files: Iterable[StoredFile]) -> None:
    """Remove them; repeatable. Blocks."""
    for file in files:
        (root / file.folder / file.name).unlink(missing_ok=True)


@contextmanager
def exclusive_lock(root: Path) -> Iterator[bool]:
    """True for one process of the host at a time, while it is inside; a process that dies leaves it at once."""
    try:
        descriptor = os.open(root / "sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # no directory: nothing was ever laid down here
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
