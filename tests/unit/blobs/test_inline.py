from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode

import pytest

from daemon.blobs.inline import decode
from daemon.domain.errors import Code, Rejected
from daemon.domain.messages import INLINE_BASE64_BYTES_MAX, ImageRef
from daemon.domain.model_io import Picture
from tests.unit.blobs.pictures import GIF, JPEG, PNG, STRANGERS


def inline(data: bytes, mime_type: str | None = None, prefix: str = "") -> ImageRef:
    return ImageRef(data=prefix + b64encode(data).decode(), mime_type=mime_type)


def refusal(*images: ImageRef) -> str:
    with pytest.raises(Rejected) as caught:
        decode(images)
    assert caught.value.code is Code.IMAGE_REJECTED
    return caught.value.message


def padded_jpeg(base64_size: int) -> bytes:
    """A JPEG whose base64 is exactly so long."""
    return JPEG + bytes(base64_size // 4 * 3 - len(JPEG))


def test_inline_images_come_back_by_their_position() -> None:
    """Other forms are passed over and keep their places."""
    images = [inline(JPEG, "image/jpeg"), ImageRef(file_id="f_1"), inline(PNG)]
    assert decode(images) == {0: Picture("image/jpeg", JPEG), 2: Picture("image/png", PNG)}
    assert decode([]) == {}


@pytest.mark.parametrize("prefix", ["data:image/png;base64,", "DATA:image/jpeg;name=a.jpg;BASE64,", "data:;base64,"])
def test_a_data_url_prefix_is_stripped(prefix: str) -> None:
    assert decode([inline(GIF, prefix=prefix)])[0].data == GIF


def test_the_bytes_win_over_the_declared_type() -> None:
    """A PNG that calls itself JPEG is a PNG: browsers and phones name files wrongly all day."""
    assert decode([inline(PNG, "image/jpeg", "data:image/webp;base64,")])[0].mime_type == "image/png"


@pytest.mark.parametrize(
    "text",
    [
        "%%%",
        "iVBORw0KGg",  # padding missing
        b64encode(PNG).decode() + "=",
        b64encode(PNG).decode()[:40] + "\n" + b64encode(PNG).decode()[40:],
        urlsafe_b64encode(b"\xff\xef\xbe" * 8).decode(),
        " " + b64encode(PNG).decode(),
        "图片",
    ],
)
def test_only_strict_base64_is_read(text: str) -> None:
    """Line breaks, the URL alphabet and wrong padding are refused by position, and never quoted."""
    message = refusal(inline(JPEG), ImageRef(data=text))
    assert message.startswith("images[1].data: is not base64")
    assert text not in message


def test_a_data_url_in_another_encoding_is_refused() -> None:
    assert "must be ;base64" in refusal(ImageRef(data="data:image/svg+xml,%3Csvg/%3E"))


def test_an_empty_image_is_refused() -> None:
    assert "images[0]: is empty" in refusal(ImageRef(data=""))
    assert "images[0]: is empty" in refusal(ImageRef(data="data:image/png;base64,"))


def test_a_stranger_is_named_with_its_position() -> None:
    heic = next(data for data, word in STRANGERS.items() if word == "HEIC")
    assert refusal(inline(PNG), inline(heic, "image/jpeg")).startswith("images[1]: is a HEIC photo")


def test_all_inline_images_together_have_800_kib() -> None:
    """The limit counts base64 without the prefix: exactly the limit passes, four characters more do not."""
    half = INLINE_BASE64_BYTES_MAX // 2
    images = [inline(padded_jpeg(half), prefix="data:image/jpeg;base64,")] * 2
    assert len(decode(images)) == 2
    assert "819204 bytes of base64" in refusal(images[0], inline(padded_jpeg(half + 4)))


def test_nine_images_are_too_many() -> None:
    assert len(decode([inline(GIF)] * 8)) == 8
    assert "9 were sent; at most 8" in refusal(*[inline(GIF)] * 9)
