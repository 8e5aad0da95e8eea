"""Images as files below `BLOB_DIR`: uploads (scheme 2) and, with BLOB_STORE=disk, inline ones (scheme 1).

    incoming/{random}                      being written; becomes one of the others by rename, or goes
    uploads/{sha256 of user and fileId}    a user's upload: with another user's id the name is another one
    inline/{random}.{queue}.{taskId}       laid down by the relay before it accepts the task

No file is ever named by what somebody sent. All files are 0600 in 0700 directories and appear whole: written, synced,
renamed. No file is held open between two awaits, so a cancelled caller leaves at most a file for the sweep. What is too
old, or left by a process that died, is found by `due`.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import mmap
import os
import re
import secrets
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from daemon.blobs.disk_quota import DiskQuota
from daemon.blobs.magic import ImageFacts, inspect, picture, refuse_stranger
from daemon.config import BlobSettings
from daemon.domain.errors import Code, ConfigError, DiskFull, Rejected, TaskError
from daemon.domain.messages import TaskMessage
from daemon.domain.model_io import Picture
from daemon.ports import Clock

P = ParamSpec("P")
T = TypeVar("T")

CHUNK_BYTES: Final = 1024 * 1024  #: written at once, and the most that an upload holds in memory
HEAD_BYTES: Final = 1024  #: enough to tell what somebody sends
FILE_ID: Final = re.compile(r"f_[A-Za-z0-9_-]{22}")  #: 128 random bits
INLINE: Final = re.compile(r"[A-Za-z0-9_-]{22}\.([a-z0-9][a-z0-9_.-]{0,63})\.([A-Za-z0-9_-]{1,64})")
FOLDERS: Final = ("incoming", "uploads", "inline")
_NAME: Final = "image"  #: how messages call an upload


class TooLarge(Rejected):
    """More bytes than one image may have."""

    code = Code.IMAGE_REJECTED


class DiskBlobs:
    """The `Blobs` port for `file:` and `disk:` references, and the `Shelf` port of the relay.

    Needs no directory before something is laid down: where nobody uploads, nothing is made.
    """

    def __init__(
        self, settings: BlobSettings, clock: Clock, inspect: Callable[[Path], ImageFacts] | None = None
    ) -> None:
        """`inspect` looks at a whole file, in a thread, and raises `Rejected`; None: by magic bytes alone."""
        self.root = Path(settings.dir)
        self._settings = settings
        self._quota = DiskQuota(self.root, settings, clock)
        self._inspect = inspect or inspect_file

    def make(self) -> None:
        """Make the directories. Raises `ConfigError` that names BLOB_DIR."""
        try:
            self._make()
        except OSError as error:
            raise ConfigError([f"BLOB_DIR={self.root}: can't be written: {error.strerror}"]) from error

    def _make(self) -> None:
        for folder in (self.root, *(self.root / name for name in FOLDERS)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(self.root / "incoming", os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # --- reading ---------------------------------------------------------------------------------------------

    async def read(self, reference: str, user_id: str) -> Picture:
        """The picture. Raises `Rejected` (IMAGE_NOT_FOUND, also for another user's; IMAGE_REJECTED) and STORE_ERROR."""
        path = self._path(reference, user_id)
        if path is None:
            raise Rejected(code=Code.IMAGE_NOT_FOUND, detail=f"{reference[:80]!r} is not of our making")
        try:
            data = await asyncio.to_thread(_bytes_of, path, self._settings.upload_bytes_max)
        except FileNotFoundError:
            there = "" if self.root.is_dir() else f"; {self.root} does not exist: is the writer on another host?"
            raise Rejected(
                code=Code.IMAGE_NOT_FOUND, detail=f"no such file of this user below BLOB_DIR{there}"
            ) from None
        except OSError as error:
            raise TaskError(
                "The image could not be read.", code=Code.STORE_ERROR, detail=f"BLOB_DIR: {error.strerror}"
            ) from error
        return picture(data)

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        """Remove what is there of them; repeatable. Raises `DiskFull` when the directory can't be written."""
        paths = [path for reference in references if (path := self._path(reference, user_id)) is not None]
        if paths:
            await _on_disk(_remove, paths)

    def _path(self, reference: str, user_id: str) -> Path | None:
        scheme, _, name = reference.partition(":")
        if scheme == "file" and FILE_ID.fullmatch(name):
            return self.root / "uploads" / _upload_name(name, user_id)
        if scheme == "disk" and INLINE.fullmatch(name):
            return self.root / "inline" / name
        return None

    # --- writing ---------------------------------------------------------------------------------------------

    async def take(
        self, user_id: str, chunks: AsyncIterable[bytes], *, bytes_max: int, expected: int | None = None
    ) -> tuple[str, ImageFacts]:
        """The new `fileId` of an upload, durable and judged, and what it is. Holds one chunk in memory.

        `expected`: bytes announced, if any. Raises `TooLarge`, `Rejected` (IMAGE_REJECTED) as soon as it is known,
        `DiskFull`, and whatever `chunks` raises; then, and when cancelled, nothing is kept.
        """
        if expected is not None and expected > bytes_max:
            raise _too_large(bytes_max)
        await _on_disk(self._make)
        file_id = f"f_{secrets.token_urlsafe(16)}"
        part = self.root / "incoming" / secrets.token_urlsafe(16)
        async with self._quota.reserved(expected or bytes_max):
            try:
                await _written(part, chunks, bytes_max)
                facts = await _on_disk(self._inspect, part)
                await _on_disk(_keep, part, self.root / "uploads" / _upload_name(file_id, user_id))
            finally:
                with suppress(OSError):  # the sweep takes what is left
                    part.unlink(missing_ok=True)
        return file_id, facts

    async def stage(self, message: TaskMessage, pictures: Mapping[int, Picture]) -> dict[int, str]:
        """References of a task's inline images, durable before this returns. Raises `DiskFull`; then none is kept."""
        names = {at: f"{secrets.token_urlsafe(16)}.{message.queue_id}.{message.task_id}" for at in pictures}
        await _on_disk(self._make)
        async with self._quota.reserved(sum(len(p.data) for p in pictures.values())):
            await _on_disk(self._lay, {name: pictures[at].data for at, name in names.items()})
        return {at: f"disk:{name}" for at, name in names.items()}

    def _lay(self, files: Mapping[str, bytes]) -> None:
        parts = {self.root / "incoming" / secrets.token_urlsafe(16): name for name in files}
        try:
            for part, name in parts.items():
                _append(part, files[name])
            for part, name in parts.items():
                _keep(part, self.root / "inline" / name)
        finally:
            _remove(list(parts))


def inspect_file(path: Path) -> ImageFacts:
    """What a file is by its magic bytes; only the pages that are asked for are read. Blocks."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return inspect(b"", name=_NAME)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return inspect(view, name=_NAME)


def _upload_name(file_id: str, user_id: str) -> str:
    return hashlib.sha256(f"{file_id}\0{user_id}".encode("utf-8", "surrogatepass")).hexdigest()


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"{_NAME}: has more than the {bytes_max} bytes that are allowed")


async def _written(part: Path, chunks: AsyncIterable[bytes], bytes_max: int) -> None:
    """All of `chunks` in the file; a stranger is refused by its first bytes."""
    held, size, known = bytearray(), 0, False
    async for chunk in chunks:
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(bytes_max)
        held += chunk
        if not known and size >= HEAD_BYTES:
            refuse_stranger(bytes(held[:HEAD_BYTES]), name=_NAME)
            known = True
        if len(held) >= CHUNK_BYTES:
            await _on_disk(_append, part, bytes(held))
            held.clear()
    await _on_disk(_append, part, bytes(held))


def _append(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(data)


def _keep(part: Path, final: Path) -> None:
    """Under its own name, and still there after the power fails."""
    _sync(part)
    part.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_of(path: Path, bytes_max: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise _too_large(bytes_max)
    return data


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


async def _on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The answer of `work` in a thread; what the system refuses is a `DiskFull`."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        raise DiskFull(f"BLOB_DIR: {error.strerror or type(error).__name__}") from error
