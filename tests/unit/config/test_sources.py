"""Reading: where values come from, and what a mistake says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from daemon.config.sources import (
    FILE_BYTES_MAX,
    Group,
    Reading,
    SettingSource,
    credential,
    file,
    setting,
    settings_of,
    variable,
)
from daemon.config.types import SecretStr, Several, secret, whole

KEY = Annotated[SecretStr, secret()]


class Example(Group):
    """A group as `config` declares them."""

    size: Annotated[int, whole("tasks", most=10)] = setting("SIZE", 5, "as an example")
    key: KEY | None = setting("KEY", None, "opens doors")
    keys: Several[KEY] = setting("KEYS", (), "open doors")


class World(BaseSettings):
    """Settings as `config` declares them."""

    example: Example = Example()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but what code hands in."""
        return (init_settings,)


def read(environ: Mapping[str, str]) -> tuple[Example | None, Reading]:
    """The group, and what was found; None if pydantic refused something."""
    reading = Reading(environ)
    sources = (
        SettingSource(World, reading, "environment", variable),
        SettingSource(World, reading, "file", file),
        SettingSource(World, reading, "credentials", credential),
    )
    try:
        return World(_build_sources=(sources, {})).example, reading  # type: ignore[call-arg]  # BaseSettings takes it
    except ValidationError as error:
        reading.refused(error, settings_of(World))
        return None, reading


def mistakes(environ: Mapping[str, str]) -> list[str]:
    """Every line."""
    return [line for lines in read(environ)[1].mistakes.values() for line in lines]


def test_a_value_comes_from_the_environment_without_its_blanks() -> None:
    """And its source is known."""
    group, reading = read({"SIZE": " 7 ", "KEYS": "a, b"})
    assert group == Example(size=7, keys=(SecretStr("a"), SecretStr("b")))
    assert reading.origins == {"SIZE": "environment", "KEYS": "environment"}
    assert reading.mistakes == {}


def test_an_empty_variable_is_an_unset_one() -> None:
    """Compose files and shells write unset variables so."""
    group, reading = read({"SIZE": "", "KEY": "  "})
    assert group == Example()
    assert reading.origins == {}


def test_a_mistake_names_setting_value_and_what_is_allowed() -> None:
    """All of them in one go, a list with one mistake or three in one line; no secret is shown."""
    assert mistakes({"SIZE": "many", "KEY": "two words", "KEYS": "a b,c,d e"}) == [
        "SIZE='many' is not allowed; allowed: a whole number of tasks from 1 to 10",
        "KEY=*** is not allowed; allowed: a text without spaces",
        "KEYS=*** is not allowed; allowed: a text without spaces; several with commas",
    ]


def test_a_long_value_is_cut_in_the_mistake() -> None:
    """One line a mistake, on a terminal."""
    assert len(mistakes({"SIZE": "x" * 5000})[0]) < 200


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_comes_from_a_file_without_its_last_newline(tmp_path: Path, ending: str) -> None:
    """As `echo` and editors write it; inner characters stay."""
    path = tmp_path / "key"
    path.write_bytes(f"s3cret{ending}".encode())
    group, reading = read({"KEY_FILE": str(path)})
    assert group == Example(key=SecretStr("s3cret"))
    assert reading.origins["KEY"] == "file"


def test_a_secret_comes_from_systemds_credentials(tmp_path: Path) -> None:
    """By its name in lower case."""
    (tmp_path / "key").write_text("s3cret\n")
    (tmp_path / "size").write_text("7")
    group, reading = read({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert group == Example(key=SecretStr("s3cret"))  # a size is no secret
    assert reading.origins["KEY"] == "credentials"


def test_a_variable_wins_over_a_credential(tmp_path: Path) -> None:
    """What somebody wrote beside the unit is meant for this process."""
    (tmp_path / "key").write_text("of-the-host")
    path = tmp_path / "other"
    path.write_text("of-the-file")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read({**environ, "KEY": "of-the-unit"})[0] == Example(key=SecretStr("of-the-unit"))
    assert read({**environ, "KEY_FILE": str(path)})[0] == Example(key=SecretStr("of-the-file"))


def test_two_sources_for_one_secret_are_a_mistake(tmp_path: Path) -> None:
    """Nobody could say which of them was meant."""
    environ = {"KEY": "a", "KEY_FILE": str(tmp_path), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert mistakes(environ) == ["KEY and KEY_FILE are both set; allowed: one of them"]


def test_only_secrets_come_from_files() -> None:
    """A file that would silently not be read is worse than none; the variable is looked at all the same."""
    assert mistakes({"SIZE_FILE": "/etc/size", "SIZE": "x"}) == [
        "SIZE_FILE='/etc/size' is not allowed: only secrets may come from files; set SIZE",
        "SIZE='x' is not allowed; allowed: a whole number of tasks from 1 to 10",
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "can't be read: No such file or directory"),
        (b"", "can't be used: empty"),
        (b"\n", "can't be used: empty"),
        (b"\xff\xfe", "can't be read: not UTF-8"),
        (b"x" * (FILE_BYTES_MAX + 1), "can't be used: larger than 65536 bytes"),
        (b"x" * FILE_BYTES_MAX + "é".encode(), "can't be used: larger than 65536 bytes"),
    ],
    ids=["missing", "empty", "newline", "binary", "huge", "huge and cut inside a character"],
)
def test_a_file_that_gives_no_secret_is_a_mistake(tmp_path: Path, content: bytes | None, why: str) -> None:
    """The line names the file, never what is in it."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    assert mistakes({"KEY_FILE": str(path)}) == [f"KEY_FILE='{path}' {why}"]


def test_a_credential_that_gives_no_secret_is_a_mistake(tmp_path: Path) -> None:
    """An empty credential is a deployment that went wrong, not an unset one."""
    (tmp_path / "key").write_text("")
    assert mistakes({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == ["credential 'key' can't be used: empty"]


def test_a_group_made_by_hand_is_checked_too() -> None:
    """Wrong values and wrong names; the error shows no value."""
    with pytest.raises(ValidationError) as caught:
        Example(size=11)
    assert "11" not in str(caught.value)
    with pytest.raises(ValidationError):
        Example(sise=1)  # type: ignore[call-arg]  # that is the test


def test_what_code_makes_comes_from_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's settings do not depend on whose machine it runs on."""
    monkeypatch.setenv("SIZE", "7")
    monkeypatch.setenv("EXAMPLE", '{"size": 7}')
    assert World() == World(example=Example())
