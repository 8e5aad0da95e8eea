"""What image bytes are, judged by the bytes alone: JPEG, PNG, WebP or GIF, whole, and not too many pixels.

Reads headers and never decodes, so a bomb of 1 KB that unfolds to gigabytes costs microseconds. Never trusts a file
name or a declared type. Called by every blob adapter: the bytes that reach a model were judged here.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from typing import Final

from daemon.domain.errors import Code, Rejected
from daemon.domain.model_io import Picture

Bytes = bytes | mmap.mmap  #: of a file too: its pages are read as they are asked for, never all of it

PIXELS_MAX: Final = 40_000_000  # 7.7k x 5.2k: more than any phone screenshot; models scale down far below this
CHUNKS_MAX: Final = 50_000  # a real PNG of 20 MB has some 2,500; a walk of so many steps takes about 10 ms


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the header says."""

    mime_type: str
    width: int
    height: int


class _Cut(Exception):
    """The bytes end before the picture does."""


def picture(data: bytes, *, name: str = "image") -> Picture:
    """The bytes with the type they really have. Raises `Rejected` (IMAGE_REJECTED) that says what they are instead.

    `name` stands at the head of the message for the viewer, such as `images[2]`. Pure; may be repeated.
    """
    return Picture(inspect(data, name=name).mime_type, data)


def inspect(data: Bytes, *, name: str = "image", pixels_max: int = PIXELS_MAX) -> ImageFacts:
    """Type and size in pixels from the header. Raises `Rejected` (IMAGE_REJECTED) as `picture` does."""
    try:
        facts = _read(data)
    except _Cut as cut:
        raise _reject(name, f"is a cut-off {cut}; please send the whole file") from None
    if facts is None:
        raise _reject(name, _describe(data[:1024]))
    if facts.width * facts.height > pixels_max:
        raise _reject(
            name,
            f"has {facts.width} x {facts.height} pixels; at most {pixels_max // 1_000_000} million are allowed",
        )
    return facts


def refuse_stranger(head: bytes, *, name: str = "image") -> None:
    """Raises `Rejected` as `inspect` does when no picture begins like this; `head`: the first 1 KiB, or all there is.

    For uploads: what can't become a picture is refused before the rest of it is read.
    """
    if not any(head.startswith(start) for start in _STARTS):
        raise _reject(name, _describe(head))


def _reject(name: str, why: str) -> Rejected:
    return Rejected(f"{name}: {why}", code=Code.IMAGE_REJECTED)


_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_GIFS: Final = (b"GIF87a", b"GIF89a")
_STARTS: Final = (_PNG, _JPEG, b"RIFF", *_GIFS)


def _read(data: Bytes) -> ImageFacts | None:
    head = data[:12]
    if head.startswith(_PNG):
        return _sized("image/png", "PNG", _png(data))
    if head.startswith(_JPEG):
        return _sized("image/jpeg", "JPEG", _jpeg(data))
    if head.startswith(b"RIFF") and head[8:] == b"WEBP":
        return _sized("image/webp", "WebP", _webp(data))
    if head.startswith(_GIFS):
        return _sized("image/gif", "GIF", _gif(data))
    return None


def _sized(mime_type: str, kind: str, size: tuple[int, int] | None) -> ImageFacts:
    if size is None or 0 in size:
        raise _Cut(f"or damaged {kind}")
    return ImageFacts(mime_type, *size)


def _png(data: Bytes) -> tuple[int, int] | None:
    """Size from IHDR; the chunks are walked to IEND, so a file cut anywhere is seen."""
    if data[12:16] != b"IHDR":
        return None
    at = 8
    for _ in range(CHUNKS_MAX):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if at > len(data):
            return None
        if kind == b"IEND":
            return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return None


_JPEG_BARE: Final = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length: TEM, RST0-7
_JPEG_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # SOFn; not DHT, JPG, DAC


def _jpeg(data: Bytes) -> tuple[int, int] | None:
    """Size from the frame header; EOI must follow the first scan (the one of an EXIF thumbnail lies before it)."""
    at, size = 2, None
    for _ in range(CHUNKS_MAX):
        if at + 4 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _JPEG_BARE:
            at += 2
            continue
        if marker in _JPEG_FRAMES:
            size = (
                int.from_bytes(data[at + 7 : at + 9], "big"),
                int.from_bytes(data[at + 5 : at + 7], "big"),
            )
        elif marker == 0xDA:  # the scan: entropy-coded bytes follow, in which FF D9 can't occur
            return size if data.rfind(b"\xff\xd9", at) != -1 else None
        elif marker == 0xD9:
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp(data: Bytes) -> tuple[int, int] | None:
    """Size from the first chunk; the RIFF header says how long the file is."""
    if len(data) < 30 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _gif(data: Bytes) -> tuple[int, int] | None:
    """Size of the screen; an empty block and the trailer must end it, padding aside."""
    if not data[-64:].rstrip(b"\0").endswith(b"\0;"):
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


# --- what else people send --------------------------------------------------------------------------------------

_ALLOWED: Final = "please send a JPEG, PNG, WebP or GIF"
_HEIC: Final = (
    f"is a HEIC photo (the format of iPhones), which models can't read; {_ALLOWED}, "
    "or set the camera to Most Compatible"
)
_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), f"is an AVIF image, which models can't read; {_ALLOWED}"),
    **dict.fromkeys(
        (
            b"heic",
            b"heix",
            b"heim",
            b"heis",
            b"hevc",
            b"hevx",
            b"hevm",
            b"hevs",
            b"mif1",
            b"msf1",
        ),
        _HEIC,
    ),
}
_OTHERS: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), f"is {what}; {_ALLOWED}")
    for pattern, what in (
        (
            rb"%PDF-",
            "a PDF, not an image (its text can go into a variable)",
        ),
        (
            rb"(\xef\xbb\xbf)?\s*(<\?xml.*?)?(<!--.*?-->\s*|<!doctype svg.*?>\s*)*<svg[\s/>]",
            "an SVG drawing",
        ),
        (
            rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)[\s>]",
            "a web page, not an image",
        ),
        (rb"II\*\x00|MM\x00\*", "a TIFF image"),
        (rb"BM.{4}\x00\x00\x00\x00", "a BMP image"),
        (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
        (rb"\x00\x00\x01\x00", "an icon file"),
        (rb"PK\x03\x04", "a ZIP or Office file, not an image"),
        (rb"....ftyp", "a video, not an image"),
    )
)


def _describe(head: bytes) -> str:
    """Why these bytes are refused, in words of their own for what phones and browsers commonly send."""
    if not head:
        return f"is empty; {_ALLOWED}"
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), 128)  # size, "ftyp", major brand, version, compatible brands
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, length, 4))}
        for brand, text in _BRANDS.items():
            if brand in brands:
                return text
    for pattern, text in _OTHERS:
        if pattern.match(head):
            return text
    return f"is not an image we know; {_ALLOWED}"
