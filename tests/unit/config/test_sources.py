"""Reading: where values come from, and what a mistake says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.config.sources import FILE_BYTES_MAX, Reader, effective, secrets_in, setting
from daemon.config.types import SecretStr, secret, several, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group as `config` declares them."""

    size: int = setting("SIZE", 5, whole("tasks", most=10), "as an example")
    key: SecretStr | None = setting("KEY", None, secret(), "opens doors")  # noqa: RUF009  # as in config
    keys: tuple[SecretStr, ...] = setting("KEYS", (), several(secret()), "open doors")


def test_a_value_comes_from_the_environment_without_its_blanks() -> None:
    """And its source is known."""
    reader = Reader({"SIZE": " 7 ", "KEYS": "a, b"})
    assert reader.group(Group) == Group(size=7, keys=(SecretStr("a"), SecretStr("b")))
    assert reader.sources == {"SIZE": "environment", "KEY": "default", "KEYS": "environment"}
    assert reader.mistakes == []


def test_an_empty_variable_is_an_unset_one() -> None:
    """Compose files and shells write unset variables so."""
    reader = Reader({"SIZE": "", "KEY": "  "})
    assert reader.group(Group) == Group()
    assert set(reader.sources.values()) == {"default"}


def test_a_mistake_names_setting_value_and_what_is_allowed() -> None:
    """The default stands in, so that other mistakes can be found as well."""
    reader = Reader({"SIZE": "many", "KEY": "two words"})
    assert reader.group(Group) == Group()
    assert reader.mistakes == [
        "SIZE='many' is not allowed; allowed: a whole number of tasks from 1 to 10",
        "KEY=*** is not allowed; allowed: a text without spaces",
    ]
    assert reader.wrong == {"SIZE", "KEY"}


def test_a_long_value_is_cut_in_the_mistake() -> None:
    """One line a mistake, on a terminal."""
    reader = Reader({"SIZE": "x" * 5000})
    reader.group(Group)
    assert len(reader.mistakes[0]) < 200


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_comes_from_a_file_without_its_last_newline(tmp_path: Path, ending: str) -> None:
    """As `echo` and editors write it; inner characters stay."""
    file = tmp_path / "key"
    file.write_bytes(f"s3cret{ending}".encode())
    reader = Reader({"KEY_FILE": str(file)})
    assert reader.group(Group).key == SecretStr("s3cret")
    assert reader.sources["KEY"] == "file"


def test_a_secret_comes_from_systemds_credentials(tmp_path: Path) -> None:
    """By its name in lower case."""
    (tmp_path / "key").write_text("s3cret\n")
    (tmp_path / "size").write_text("7")
    reader = Reader({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert reader.group(Group) == Group(key=SecretStr("s3cret"))  # a size is no secret
    assert reader.sources["KEY"] == "credentials"


def test_a_variable_wins_over_a_credential(tmp_path: Path) -> None:
    """What somebody wrote beside the unit is meant for this process."""
    (tmp_path / "key").write_text("of-the-host")
    file = tmp_path / "other"
    file.write_text("of-the-file")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert Reader({**environ, "KEY": "of-the-unit"}).group(Group).key == SecretStr("of-the-unit")
    assert Reader({**environ, "KEY_FILE": str(file)}).group(Group).key == SecretStr("of-the-file")


def test_two_sources_for_one_secret_are_a_mistake(tmp_path: Path) -> None:
    """Nobody could say which of them was meant."""
    reader = Reader({"KEY": "a", "KEY_FILE": str(tmp_path)})
    reader.group(Group)
    assert reader.mistakes == ["KEY and KEY_FILE are both set; allowed: one of them"]


def test_only_secrets_come_from_files() -> None:
    """A file that would silently not be read is worse than none."""
    reader = Reader({"SIZE_FILE": "/etc/size"})
    reader.group(Group)
    assert reader.mistakes == ["SIZE_FILE='/etc/size' is not allowed: only secrets may come from files; set SIZE"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "can't be read: No such file or directory"),
        (b"", "can't be used: empty"),
        (b"\n", "can't be used: empty"),
        (b"\xff\xfe", "can't be read: not UTF-8"),
        (b"x" * (FILE_BYTES_MAX + 1), "can't be used: larger than 65536 bytes"),
    ],
    ids=["missing", "empty", "newline", "binary", "huge"],
)
def test_a_file_that_gives_no_secret_is_a_mistake(tmp_path: Path, content: bytes | None, why: str) -> None:
    """The line names the file, never what is in it."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    reader = Reader({"KEY_FILE": str(file)})
    assert reader.group(Group).key is None
    assert reader.mistakes == [f"KEY_FILE='{file}' {why}"]
    assert reader.wrong == {"KEY"}


def test_a_credential_that_gives_no_secret_is_a_mistake(tmp_path: Path) -> None:
    """An empty credential is a deployment that went wrong, not an unset one."""
    (tmp_path / "key").write_text("")
    reader = Reader({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    reader.group(Group)
    assert reader.mistakes == ["credential 'key' can't be used: empty"]


def test_an_unknown_name_gets_a_hint_that_looks_past_the_prefix() -> None:
    """Names that share nothing but the prefix are not alike."""
    reader = Reader({"APP_SISE": "1", "APP_X": "1", "APP_SIZE": "1", "APP_KEY_FILE": "k", "OTHER": "1"})
    assert list(reader.unknown("APP_", ["APP_SIZE", "APP_KEY", "OTHERS"])) == [
        "APP_SISE is not a setting; did you mean APP_SIZE?",
        "APP_X is not a setting",
    ]


def test_values_in_force_are_shown_masked_and_secrets_found() -> None:
    """One walk over all groups serves printing, rules and the log's mask."""
    group = Group(size=7, key=SecretStr("s3cret"))
    assert [(e.group, e.setting.name, e.shown) for e in effective({"g": group})] == [
        ("g", "SIZE", 7),
        ("g", "KEY", "***"),
        ("g", "KEYS", []),
    ]
    assert [e.shown for e in effective({"g": Group()})] == [5, None, []]
    assert list(secrets_in({"g": group})) == ["s3cret"]
