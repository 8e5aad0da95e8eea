"""Schemathesis reads the OpenAPI description and calls what it finds there, in every way that it thinks of."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.gateway_world import KEY, world
from tests.fuzz.test_calls import ADMIN, SETTINGS

ROOT: Final = Path(__file__).parents[2]
#: in an environment of its own: `make fuzz` makes it
PROGRAM: Final = ROOT / ".venv-fuzz" / "bin" / "schemathesis"
EXAMPLES: Final = 500  #: of each operation and kind of data
CHECKS: Final = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
)  # fmt: skip
#: 503 is the answer to a version to come (protocol 2); its words and headers are judged as all others
CONFIG: Final = '[checks.not_a_server_error]\nexpected-statuses = ["2xx", "3xx", "4xx", "503"]\n'


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("door", "bearer"), [("relay", ""), ("gateway", KEY), ("daemon", ADMIN)])
async def test_schemathesis_gets_only_answers_that_are_described(
    redis_url: str, postgres_url: str, tmp_path: Path, door: str, bearer: str
) -> None:
    """Signatures are off in the relay here, since it can't sign; `test_calls` signs."""
    assert PROGRAM.exists(), "requirements/install fuzz"
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    own = {"QSTASH_SKIP_VERIFY": "true"} if door == "relay" else {}
    async with world(redis_url, postgres_url, **{**SETTINGS, **own}) as found:
        command = [
            PROGRAM, "--config-file", tmp_path / "schemathesis.toml", "run", ROOT / "docs/contract/openapi.json",
            "--url", found.parts[door].url, "--include-tag", "ops" if door == "daemon" else door,
            "--exclude-path-regex", "/ws$|^/metrics$", "--checks", ",".join(CHECKS), "--phases", "examples,fuzzing",
            "-n", str(EXAMPLES), "--seed", "1", "--suppress-health-check", "all", "--warnings", "off", "--no-color",
            "--generation-database", "none", *(["-H", f"Authorization:Bearer {bearer}"] if bearer else []),
        ]  # fmt: skip
        ended = await asyncio.to_thread(
            subprocess.run, list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
        print(ended.stdout[-600:])  # noqa: T201
