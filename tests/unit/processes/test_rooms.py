"""What a build without some rooms offers."""

from __future__ import annotations

import pytest

from daemon.config import RuntimeSettings, Settings
from daemon.domain.errors import ConfigError
from daemon.processes import rooms


def test_a_room_is_there_or_not() -> None:
    """A folder without modules is none."""
    assert rooms.has("admin")
    assert not rooms.has("attic")
    assert not rooms.has("services_default")
    assert rooms.optional("attic.chest") is None


def test_a_module_of_a_room_that_is_there_is_imported() -> None:
    """As if it were named in an import."""
    queue_api = rooms.optional("admin.queue_api")
    assert queue_api is not None and queue_api.__name__ == "daemon.admin.queue_api"


def test_crash_points_that_are_not_there_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for them wants them; who does not ask misses nothing."""
    monkeypatch.setattr(rooms, "has", lambda _: False)
    rooms.arm_failpoints(Settings())
    asked = Settings().model_copy(update={"runtime": RuntimeSettings(failpoints="ack:after=kill")})
    with pytest.raises(ConfigError, match="QSTREAMD_FAILPOINTS"):
        rooms.arm_failpoints(asked)
