"""What Gemini is sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.domain.model_io import ModelRequest, Picture
from daemon.providers.gemini import _post, arguments


def test_the_request_is_made_of_the_vendors_types() -> None:
    """Text last, pictures before it; no tools, no continuation behind our back."""
    contents, config = arguments(
        ModelRequest("gemini", "m", "Be brief.", "Hello", (Picture("image/png", b"\x00\xff"),), json_output=True)
    )
    picture, text = contents[0].parts
    assert (picture.inline_data.data, picture.inline_data.mime_type) == (b"\x00\xff", "image/png")
    assert text.text == "Hello"
    assert config.response_mime_type == "application/json"
    assert config.automatic_function_calling is not None
    assert config.automatic_function_calling.disable
    assert config.automatic_continuation is False


class Opened:
    """An answer that the tap has captured."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True


async def test_an_answer_that_the_sdk_then_fails_on_is_closed() -> None:
    """Whatever a release does between sending and returning, no socket stays open."""
    from daemon.providers.transport import _captured

    opened = Opened()

    async def generate_content(**_: object) -> None:
        captured = _captured.get()
        assert captured is not None
        captured.append(cast("Any", opened))
        raise RuntimeError

    models = SimpleNamespace(generate_content=generate_content)
    client = cast("Any", SimpleNamespace(aio=SimpleNamespace(models=models)))
    with pytest.raises(RuntimeError):
        await _post(client, ModelRequest("gemini", "m", "", "Hello", stream=False))
    assert opened.closed
    assert _captured.get() is None
