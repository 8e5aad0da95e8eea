"""The table `wrong_environments.toml`: every line that it names is said, and the exit code is the same."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.cli import main

SERVER: Final = {
    "REDIS_URL": "redis://:s3cret-of-redis@redis:6379/0",
    "DATABASE_URL": "postgresql://u:s3cret-of-postgres@postgres/db",
    "WORKER_BASE_URL": "https://worker.example.com/",
    "QSTASH_CURRENT_SIGNING_KEY": "sig_a,sig_b",
    "QSTASH_NEXT_SIGNING_KEY": "sig_c",
}
CASES: Final = tomllib.loads((Path(__file__).parent / "wrong_environments.toml").read_text("utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of which none gives a secret, but `good`."""
    contents = {"empty": b"", "binary": b"\xff\xfe", "huge": b"x" * 70_000, "good": b"sig_file\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "creds").mkdir()
    (tmp_path / "creds" / "task_token_secret").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_wrong_environment_is_told_what_is_wrong_with_it(
    case: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every mistake in one go, in the same words from every command; no secret; the exit code that systemd knows."""
    for name, value in {**(SERVER if case.get("server") else {}), **case["environ"]}.items():
        monkeypatch.setenv(name, value.replace("{files}", str(folder)))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["daemon", *case["command"].split()])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    said = captured.out + captured.err
    missing = [line for line in case["says"].splitlines() if line.replace("{files}", str(folder)) not in said]
    assert (missing, ended.value.code) == ([], case["exit_code"]), said
    assert "s3cret" not in said
    assert "Traceback" not in said


def test_the_table_knows_every_sort_of_mistake() -> None:
    """Words that each sort has and no other."""
    said = "".join(case["says"] for case in CASES.values())
    sorts = (
        "is not allowed; did you mean; can't be read; can't be used; only secrets may; both set; is not set; at least 3"
    )
    assert [sort for sort in sorts.split("; ") if sort not in said] == []
