"""Images that travel as base64 inside the message (scheme 1): decoded strictly, judged by their bytes.

Pure: no server, no disk. Called by the relay before it lays the bytes in the blob store, and by the pipeline for
images that `task_context` holds inline.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from typing import Final

from daemon.blobs.magic import picture
from daemon.domain.errors import Code, Rejected
from daemon.domain.messages import IMAGES_MAX, INLINE_BASE64_BYTES_MAX, ImageRef
from daemon.domain.model_io import Picture

_DATA_URL: Final = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)


def decode(images: Sequence[ImageRef]) -> dict[int, Picture]:
    """The inline ones of `images` by their position, with the type their bytes have; other forms are passed over.

    Limits: `IMAGES_MAX` images, `INLINE_BASE64_BYTES_MAX` of base64 together. A declared `mimeType` is not believed
    and need not agree. Raises `Rejected` (IMAGE_REJECTED) that names the image and never quotes it. May be repeated.
    """
    if len(images) > IMAGES_MAX:
        raise _reject(f"images: {len(images)} were sent; at most {IMAGES_MAX} are allowed")
    texts = {at: _payload(at, image.data) for at, image in enumerate(images) if image.data is not None}
    total = sum(map(len, texts.values()))
    if total > INLINE_BASE64_BYTES_MAX:
        raise _reject(
            f"images: {total} bytes of base64 together; at most {INLINE_BASE64_BYTES_MAX} (800 KiB) are allowed "
            "inline; send smaller ones or upload them"
        )
    return {at: picture(_bytes(at, text), name=f"images[{at}]") for at, text in texts.items()}


def _payload(at: int, data: str) -> str:
    """The base64 itself, without a `data:…;base64,` prefix."""
    prefix = _DATA_URL.match(data)
    if prefix is None:
        return data
    if not prefix[0].lower().endswith(";base64,"):
        raise _reject(f"images[{at}].data: a data: URL must be ;base64")
    return data[prefix.end() :]


def _bytes(at: int, text: str) -> bytes:
    try:
        if len(text) % 4 == 0:  # even strict mode passes over padding that is too long
            return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error is one, and so is text outside ASCII
        pass
    raise _reject(f"images[{at}].data: is not base64 of the standard alphabet (+ and /, padded with =, no line breaks)")


def _reject(message: str) -> Rejected:
    return Rejected(message, code=Code.IMAGE_REJECTED)
