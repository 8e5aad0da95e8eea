"""The plan of a migration run, and the files that are shipped."""

from __future__ import annotations

import re

import pytest

from daemon.store.migrate import Migration, MigrationRefused, load_migrations, plan

A, B, C = (Migration(f"000{n}_{x}", f"SELECT {n}") for n, x in enumerate("abc", 1))


def done(*migrations: Migration) -> list[tuple[str, str, bool]]:
    """As the database remembers them."""
    return [(m.name, m.sha256, m.expands) for m in migrations]


def test_what_is_missing_is_applied_in_order() -> None:
    """All, some, none."""
    assert plan([A, B, C], []) == [A, B, C]
    assert plan([A, B, C], done(A)) == [B, C]
    assert plan([A, B, C], done(A, B, C)) == []


def test_all_mistakes_are_named_at_once() -> None:
    """Changed, unknown, out of order."""
    with pytest.raises(MigrationRefused) as caught:
        plan([A, Migration("0002_b", "SELECT 22"), Migration("0000_late", "")], done(A, B, C))
    changed, unknown, late = caught.value.mistakes
    assert "0002_b was changed" in changed
    assert "0003_c" in unknown and "newer release" in unknown
    assert "0000_late sorts before 0003_c" in late


def test_what_a_newer_release_added_is_no_mistake() -> None:
    """The release before starts on that schema: during a rollover, and to go back."""
    newer = Migration("0003_c", "-- expand-only\nALTER TABLE t ADD COLUMN c int")
    assert plan([A, B], done(A, B, newer)) == []
    with pytest.raises(MigrationRefused, match="0003_c was applied"):
        plan([A, B], done(A, B, Migration("0003_c", "ALTER TABLE t DROP COLUMN c -- expand-only")))
    with pytest.raises(MigrationRefused, match="0002_b was changed"):
        plan([A, Migration("0002_b", "-- expand-only\nSELECT 22")], done(A, Migration("0002_b", "-- expand-only")))


def test_line_ends_are_no_change() -> None:
    """A checkout on another system applies to the same database."""
    assert Migration("0001_a", "SELECT\r\n1").sha256 == Migration("0001_a", "SELECT\n1").sha256


def test_a_file_may_opt_out_of_its_transaction() -> None:
    """On its first line only."""
    assert not Migration("0001_a", "-- no transaction\nCREATE INDEX CONCURRENTLY x ON y (z)").transactional
    assert Migration("0001_a", "SELECT 1;\n-- no transaction").transactional


def test_the_shipped_files_are_numbered_without_gaps() -> None:
    """And none of them needs an extension or touches the view again."""
    shipped = load_migrations()
    assert [int(m.name[:4]) for m in shipped] == list(range(1, len(shipped) + 1))
    assert all("CREATE EXTENSION" not in m.sql for m in shipped)
    assert not any(re.search(r"\btask_context\b", m.sql) for m in shipped[1:])


#: what takes away or narrows: the release before would read or write what is not there any more
CONTRACTS = (
    r"\b(DROP|RENAME|SET NOT NULL|ADD CONSTRAINT|ALTER COLUMN \w+ (SET DATA )?TYPE|TRUNCATE|DELETE FROM|UPDATE)\b"
)


def test_a_shipped_file_that_says_that_it_only_expands_does() -> None:
    """A new column has a default or may be null, and nothing is taken away or narrowed."""
    bad = "ALTER TABLE t DROP COLUMN a; ALTER TABLE t ALTER COLUMN b TYPE text; ALTER TABLE t ALTER c SET NOT NULL"
    assert len(re.findall(CONTRACTS, bad)) == 3
    for migration in load_migrations()[1:]:
        assert migration.expands or "\n-- breaking: " in migration.sql, (
            f"{migration.name} says neither, with the reason"
        )
        without_comments = re.sub(r"--.*", "", migration.sql)
        assert not migration.expands or not re.search(CONTRACTS, without_comments), migration.name
        for column in re.findall(r"ADD COLUMN [^,;]*NOT NULL[^,;]*", without_comments) if migration.expands else ():
            assert "DEFAULT" in column, f"{migration.name}: {column}"


def test_an_applied_file_is_never_edited() -> None:
    """Released history: a change belongs into a new file. Only before the first release may this hash move."""
    assert [(m.name, m.sha256[:16]) for m in load_migrations()] == [
        ("0001_ledger", "3234af3f3c70daff"),
        ("0002_finish_reason", "8dc110879bbbb86e"),
    ]
