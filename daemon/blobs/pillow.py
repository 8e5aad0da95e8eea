"""A second opinion on an upload, where Pillow is installed (extra `images`): another parser, which checks sums too.

Opens and verifies, never decodes pixels. WebP is left out: its opener makes room for the whole canvas. Imported on
first use.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from daemon.blobs.disk import inspect_file
from daemon.blobs.magic import ImageFacts
from daemon.domain.errors import Code, Rejected

_FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF"}


def installed() -> bool:
    """Whether there is a Pillow to ask."""
    return find_spec("PIL") is not None


def inspect_and_decode(path: Path) -> ImageFacts:
    """What the magic bytes say, if Pillow agrees. Raises `Rejected` (IMAGE_REJECTED) as `inspect_file`. Blocks."""
    facts = inspect_file(path)
    if facts.mime_type in _FORMATS:
        from PIL import Image

        try:
            with Image.open(path, formats=(_FORMATS[facts.mime_type],)) as image:
                size = image.size
                image.verify()
        except Exception as error:  # whatever a parser raises at foreign bytes: they are no picture
            raise _damaged() from error
        if size != (facts.width, facts.height):
            raise _damaged()
    return facts


def _damaged() -> Rejected:
    return Rejected("image: is damaged; please send it again", code=Code.IMAGE_REJECTED)
