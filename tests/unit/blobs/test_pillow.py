from __future__ import annotations

from pathlib import Path

import pytest

from daemon.blobs.disk import inspect_file
from daemon.blobs.magic import ImageFacts
from daemon.blobs.pillow import inspect_and_decode, installed
from daemon.domain.errors import Code, Rejected
from tests.unit.blobs.pictures import PICTURES, PNG, png_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image"


@pytest.mark.parametrize("kind", PICTURES)
def test_both_agree_on_every_kind(path: Path, kind: str) -> None:
    path.write_bytes(PICTURES[kind][0])
    assert inspect_and_decode(path) == inspect_file(path)


def test_a_damaged_sum_is_seen(path: Path) -> None:
    """The header alone looks right."""
    path.write_bytes(PNG[:45] + bytes([PNG[45] ^ 1]) + PNG[46:])
    inspect_file(path)
    with pytest.raises(Rejected, match="damaged") as caught:
        inspect_and_decode(path)
    assert caught.value.code is Code.IMAGE_REJECTED


def test_two_readings_of_one_size_are_suspicious(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a file shows one picture to us and another one to a model."""
    path.write_bytes(PNG)
    monkeypatch.setattr("daemon.blobs.pillow.inspect_file", lambda _: ImageFacts("image/png", 16, 10))
    with pytest.raises(Rejected, match="damaged"):
        inspect_and_decode(path)


def test_a_bomb_never_reaches_the_parser(path: Path) -> None:
    path.write_bytes(png_of(60_000, 60_000))
    with pytest.raises(Rejected, match="pixels"):
        inspect_and_decode(path)


def test_the_tests_have_a_pillow() -> None:
    assert installed()
