"""Tiny real pictures, 16 x 9 pixels, one of each kind that models read; and what else people send."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from typing import Final

JPEG: Final = b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71////m8H/"
    "///6/+b9//j/wAALCAAJABABAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQR"
    "BRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4"
    "eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEB"
    "AAA/AGf2d/s0f2d/s1tUV//Z"
)
JPEG_PROGRESSIVE: Final = b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD//gADeP/bAEMAKBweIx4ZKCMhIy0rKDA8ZEE8Nzc8e1hdSWSRgJmWj4CMiqC05sOgqtqtiozI/8va7vX/"
    "//+bwf////r/5v3/+P/CAAsIAAkAEAEBEQD/xAAWAAEBAQAAAAAAAAAAAAAAAAAAAgT/2gAIAQEAAAABltf/xAAWEAEBAQAAAAAAAAAAAAAA"
    "AAATABD/2gAIAQEAAQUCOPf/xAAUEAEAAAAAAAAAAAAAAAAAAAAg/9oACAEBAAY/Ah//xAAWEAEBAQAAAAAAAAAAAAAAAABxABD/2gAIAQEA"
    "AT8hEN//2gAIAQEAAAAQ/wD/xAAUEAEAAAAAAAAAAAAAAAAAAAAg/9oACAEBAAE/EBX/2Q=="
)
PNG: Final = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAJCAIAAAC0SDtlAAAAJ0lEQVR4nGPk4+NjIAWwyMjIkKZBVlaWxjYMQieRagPjx48fSdIAACDoBXFD"
    "GXxXAAAAAElFTkSuQmCC"
)
WEBP_LOSSY: Final = b64decode("UklGRiwAAABXRUJQVlA4ICAAAACQAQCdASoQAAkAB0CWJaQAAuaL6IAA/rxxL1YI0AAAAA==")
WEBP_LOSSLESS: Final = b64decode(
    "UklGRkgAAABXRUJQVlA4TDwAAAAvDwACAEcgEEixwQQtEEixwQQtEEixwQQ9/1GFH8APfgCEkK0ohRRSSCGFFFI4hRNfh4j+Z5AUzbAcjw8="
)
WEBP_EXTENDED: Final = b64decode(
    "UklGRkoAAABXRUJQVlA4WAoAAAAIAAAADwAACAAAVlA4ICAAAACQAQCdASoQAAkAB0CWJaQAAuaL6IAA/rxxL1YI0AAAAEVYSUYEAAAASUkqAA=="
)
GIF: Final = b64decode(
    "R0lGODdhEAAJAIEAAKampiAfHwAAAAAAACwAAAAAEAAJAAAIIwADCBxIsKDBgwUBCFTIMEDDhQAiSpxIsaLFixgzatzIcWJAADs="
)

PICTURES: Final = {
    "jpeg": (JPEG, "image/jpeg"),
    "progressive jpeg": (JPEG_PROGRESSIVE, "image/jpeg"),
    "png": (PNG, "image/png"),
    "lossy webp": (WEBP_LOSSY, "image/webp"),
    "lossless webp": (WEBP_LOSSLESS, "image/webp"),
    "extended webp": (WEBP_EXTENDED, "image/webp"),
    "gif": (GIF, "image/gif"),
}

#: bytes -> a word that the refusal must say
STRANGERS: Final = {
    b"": "empty",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "HEIC",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": "HEIC",
    b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf": "AVIF",
    b"\0\0\0\x14ftypisom\0\0\0\0isom": "video",
    b"%PDF-1.7\n": "PDF",
    b'<svg xmlns="http://www.w3.org/2000/svg"/>': "SVG",
    b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg >': "SVG",
    b"\n <!DOCTYPE html><html>": "web page",
    b"II*\0aaaaaaaa": "TIFF",
    b"BMaaaa\0\0\0\0aaaa": "BMP",
    b"\xff\x0aaaaa": "JPEG XL",
    b"\0\0\1\0aaaa": "icon",
    b"PK\x03\x04aaaa": "ZIP",
    b"GIF is a word": "not an image we know",
    b"RIFFaaaaWAVEfmt aaaaaaaaaaaaaaaaaaaa": "not an image we know",
}


def png_of(width: int, height: int) -> bytes:
    """A whole PNG whose header promises so many pixels: a bomb of some 70 bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
