"""`python -m daemon try` as an operator runs it, against stand-ins."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemon.config import RedisSettings
from daemon.dev.fake_llm import FakeLLM

ROOT = Path(__file__).parents[3]
KEY = "test-key-0123456789"


class Ended(NamedTuple):
    """How the command ended."""

    code: int | None
    out: str
    err: str


@pytest.fixture
async def fake() -> AsyncIterator[FakeLLM]:
    async with FakeLLM(tokens_per_s=2000, first_token_s=0.01) as running:
        yield running


@pytest.fixture
def variables(fake: FakeLLM, redis_settings: RedisSettings, postgres_url: str) -> dict[str, str]:
    return {
        "REDIS_URL": redis_settings.url.get_secret_value(), "DATABASE_URL": postgres_url, "NODE_ENV": "test",
        "DEEPSEEK_API_KEY": KEY, "DEEPSEEK_BASE_URL": fake.openai_url, "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": fake.openai_url, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "NO_COLOR": "1",
    }  # fmt: skip


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def tried(variables: Mapping[str, str], *options: str, cwd: Path) -> Ended:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", "try", *options, env=dict(variables), cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 50)
    return Ended(process.returncode, out.decode(), err.decode())


async def test_a_table_of_what_works_and_a_transcript(fake: FakeLLM, variables: dict[str, str], tmp_path: Path) -> None:
    """What will be done comes first; Gemini has no key here and is left out with a word."""
    ended = await tried(variables, "--yes", "--out", "sent", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    said, _, table = ended.out.partition("without keys and account ids\n")
    assert "together $0.0" in said and "never above $0.01" in said
    for part in ("redis    blocking read", "redis    XAUTOCLAIM", "postgres rights", "model    gpt JSON call"):
        assert f"works      {part}" in table
    assert "GEMINI_API_KEY is not set" in table
    assert len(fake.calls) == 6
    names = written(tmp_path / "sent")
    assert {"openai-gpt-stream.http", "openai-gpt-json.http", "results.json"} <= {*names}
    sent = "".join((tmp_path / "sent" / name).read_text("utf-8") for name in names)
    assert KEY not in sent + ended.out


async def test_nothing_is_done_unasked(fake: FakeLLM, variables: dict[str, str], tmp_path: Path) -> None:
    ended = await tried(variables, cwd=tmp_path)
    assert (ended.code, "--yes" in ended.err, fake.calls, written(tmp_path)) == (2, True, [], [])


async def test_json_and_parts_for_programs(fake: FakeLLM, variables: dict[str, str], tmp_path: Path) -> None:
    """One document on stdout, what will be done on stderr."""
    ended = await tried(variables, "--yes", "--json", "--model", "gpt", "--skip", "redis", cwd=tmp_path)
    found: dict[str, Any] = json.loads(ended.out)
    assert (ended.code, found["ok"], len(fake.calls)) == (0, True, 2)
    assert {r["part"] for r in found["results"]} == {"postgres", "relay", "qstash", "model"}
    assert 0 < found["costUsd"] <= found["costMaxUsd"] <= 0.01
    assert sorted(found["files"]) == written(tmp_path / found["transcript"])
    assert "This will:" in ended.err


@pytest.mark.parametrize(
    ("changed", "code", "kind"),
    [({"OPENAI_BASE_URL": "http://127.0.0.1:1"}, 75, "network"), ({"OPENAI_BASE_URL": "{url}/refused"}, 1, "model")],
)
async def test_the_exit_code_tells_away_from_wrong(
    fake: FakeLLM, variables: dict[str, str], tmp_path: Path, changed: dict[str, str], code: int, kind: str
) -> None:
    given = variables | {name: value.format(url=fake.url) for name, value in changed.items()}
    ended = await tried(given, "--yes", "--json", "--model", "gpt", "--skip", "postgres", cwd=tmp_path)
    kinds = {r["kind"] for r in json.loads(ended.out)["results"] if r["state"] == "fails"}
    assert (ended.code, kinds) == (code, {kind})


async def test_a_place_that_can_not_be_written_is_said_before_anything_is_paid(
    fake: FakeLLM, variables: dict[str, str], tmp_path: Path
) -> None:
    ended = await tried(variables, "--yes", "--out", "/proc/nowhere", cwd=tmp_path)
    assert (ended.code, "/proc/nowhere" in ended.err, fake.calls) == (2, True, [])


async def test_an_unknown_model_is_a_matter_of_configuration(variables: dict[str, str], tmp_path: Path) -> None:
    ended = await tried(variables, "--yes", "--model", "gtp", cwd=tmp_path)
    assert (ended.code, "allowed: deepseek-flash" in ended.err) == (78, True)
