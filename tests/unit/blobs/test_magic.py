from __future__ import annotations

import random
import struct
from contextlib import suppress

import pytest

from daemon.blobs.magic import CHUNKS_MAX, inspect, picture
from daemon.domain.errors import Code, Rejected
from tests.unit.blobs.pictures import JPEG, JPEG_PROGRESSIVE, PICTURES, PNG, STRANGERS, WEBP_LOSSY, png_of


def refusal(data: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        picture(data, name="images[3]")
    assert caught.value.code is Code.IMAGE_REJECTED
    assert caught.value.message.startswith("images[3]: ")
    return caught.value.message


@pytest.mark.parametrize("kind", PICTURES)
def test_type_and_size_come_from_the_bytes(kind: str) -> None:
    """Every kind that models read is known, whole, and 16 x 9."""
    data, mime_type = PICTURES[kind]
    facts = inspect(data)
    assert (facts.mime_type, facts.width, facts.height) == (mime_type, 16, 9)
    assert picture(data).mime_type == mime_type
    assert picture(data).data is data


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_cut_anywhere_is_refused(kind: str) -> None:
    """No proper prefix of a real picture passes."""
    data, _ = PICTURES[kind]
    for length in range(len(data)):
        refusal(data[:length])


@pytest.mark.parametrize(("data", "word"), STRANGERS.items(), ids=STRANGERS.values())
def test_what_is_no_picture_is_told_what_it_is(data: bytes, word: str) -> None:
    """HEIC, PDF, SVG and their like get texts of their own, so that a user knows what to do."""
    assert word in refusal(data)


def test_bytes_behind_the_end_do_no_harm() -> None:
    """Phones append trailers to JPEGs, and some tools pad."""
    assert inspect(JPEG + b"MPF trailer").mime_type == "image/jpeg"
    assert inspect(PNG + b"\0" * 16).mime_type == "image/png"
    assert inspect(PICTURES["gif"][0] + b"\0" * 16).mime_type == "image/gif"
    assert inspect(WEBP_LOSSY + b"x").mime_type == "image/webp"


def test_a_bomb_is_refused_without_decoding_it() -> None:
    """70 bytes that promise 40 million pixels pass; one row more does not."""
    assert inspect(png_of(8000, 5000)).width == 8000
    assert "8000 x 5001 pixels" in refusal(png_of(8000, 5001))
    assert "pixels" in refusal(png_of(2**31 - 1, 2**31 - 1))


def test_a_picture_without_pixels_is_damaged() -> None:
    assert "damaged PNG" in refusal(png_of(0, 5))


def test_a_png_must_begin_with_its_header() -> None:
    assert "damaged PNG" in refusal(PNG.replace(b"IHDR", b"IDAT", 1))


def test_endless_chunks_are_given_up() -> None:
    """A file made of empty chunks costs a bounded walk, whatever its size."""
    empty = struct.pack(">I", 0) + b"teSt" + b"\0\0\0\0"
    assert "damaged PNG" in refusal(PNG[:33] + empty * CHUNKS_MAX + PNG[33:])
    assert "damaged JPEG" in refusal(b"\xff\xd8" + b"\xff" * (CHUNKS_MAX + 10))


def test_a_thumbnail_does_not_pass_for_the_whole_jpeg() -> None:
    """The end marker of an EXIF thumbnail lies before the scan and counts for nothing."""
    exif = b"\xff\xe1" + struct.pack(">H", 2 + len(JPEG)) + JPEG
    whole = JPEG[:2] + exif + JPEG[2:]
    assert inspect(whole).width == 16
    assert "cut-off" in refusal(whole[:-2])


def test_fill_bytes_and_bare_markers_are_walked_over() -> None:
    assert inspect(JPEG[:2] + b"\xff\x01" + b"\xff\xff" + JPEG[2:]).height == 9


def test_a_jpeg_that_ends_before_its_scan_is_refused() -> None:
    refusal(b"\xff\xd8\xff\xd9\xff\xd9")
    at = JPEG_PROGRESSIVE.index(b"\xff\xda")
    refusal(JPEG_PROGRESSIVE[:at] + b"\xff\xd9\0\0")


def test_a_webp_of_an_unknown_kind_is_refused() -> None:
    assert "WebP" in refusal(WEBP_LOSSY.replace(b"VP8 ", b"VP9 "))


def test_damaged_bytes_are_refused_or_read_and_nothing_else() -> None:
    """20,000 random damages of real pictures: an answer or `Rejected`, never another error."""
    chance = random.Random(20261123)
    samples = [data for data, _ in PICTURES.values()] + list(STRANGERS)
    for _ in range(20_000):
        data = bytearray(chance.choice(samples) or b"\xff")
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(Rejected):
            inspect(bytes(data[: chance.randrange(len(data) + 1)]))
