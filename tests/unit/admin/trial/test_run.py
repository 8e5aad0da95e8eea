"""How a trial ends, and what it leaves behind."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from daemon.admin.trial.model_calls import Calls
from daemon.admin.trial.recorder import Exchange
from daemon.admin.trial.result import Result, fails, flawed, skipped, works
from daemon.admin.trial.run import exit_code, prepare, write
from daemon.config import ProviderSettings, Settings
from daemon.config.types import SecretStr
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError

FINE = works("redis", "Lua", "x")


def failed(kind: Any) -> Result:
    return fails("model", "m", "x", "y", kind)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([FINE], 0),
        ([FINE, flawed("m", "w", "t", "c", "parameter"), skipped("m", "w", "t")], 0),
        ([FINE, failed("network"), failed("proxy"), failed("tls")], 75),
        ([failed("network"), failed("key")], 1),
        ([failed("rights")], 1),
    ],
)
def test_what_is_out_of_reach_ends_with_75_and_what_is_wrong_with_1(results: list[Result], code: int) -> None:
    assert exit_code(results) == code


def test_an_unknown_model_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="gtp is not known; allowed: deepseek-flash"):
        prepare(Settings(), ["gtp"], [])


def test_the_files_hold_no_key_and_are_closed_to_others(tmp_path: Path) -> None:
    key = "wholly-unusual-key-form"
    settings = Settings(providers=ProviderSettings(openai_api_key=SecretStr(key)))
    calls = Calls(settings.providers, SystemClock())
    calls.transcripts.append(("openai-a/b-stream.http", Exchange(401, "application/json", [(0.1, key.encode())])))
    names = write(tmp_path / "out", settings, [fails("model", "m", f"said {key}", "", "key")], calls)
    assert sorted(names) == ["openai-a_b-stream.http", "results.json"]
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == sorted(names)
    assert key not in str(written)
    assert json.loads(written["results.json"])["results"][0]["kind"] == "key"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
