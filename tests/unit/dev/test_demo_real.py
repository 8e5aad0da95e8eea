"""One task on a real provider: its own model, its own limits, and never more than a cent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from daemon import services
from daemon.config import ProviderSettings, RuntimeSettings, Settings
from daemon.dev.demo.real import SERVICE, real
from daemon.domain.errors import ConfigError

FILE = """
[models."o/dd.name"]
provider = "openai"
name = "gpt-\\"6"
input = ["text", "image"]
sampling = false
reasoning = "low"
proxy = "http://u:s3cret@10.0.0.8:3128"
price_per_million_usd = { input = 1.5, output = 6.0 }
[services.s]
prompt = "x"
models = { paid = ["o/dd.name"] }
"""


def settings(tmp_path: Path, **providers: Any) -> Settings:
    file = tmp_path / "given.toml"
    file.write_text(FILE, "utf-8")
    return Settings(
        runtime=RuntimeSettings(services_file=str(file)),
        providers=ProviderSettings(openai_api_key=SecretStr("k"), **providers),
    )


def test_the_model_is_called_as_the_services_file_has_it(tmp_path: Path) -> None:
    """Name, proxy, reasoning and price, with one service that fits into a cent."""
    given = settings(tmp_path, openai_base_url="https://x.example/v1", https_proxy=SecretStr("http://p:1"))
    found = real(given, "openai")
    (tmp_path / "made.toml").write_text(found.services_file, "utf-8")
    made = services.load(tmp_path / "made.toml")
    asked = services.load(tmp_path / "given.toml").models["o/dd.name"]
    [model] = made.models.values()
    assert (model.name, model.proxy, model.reasoning, model.sampling, model.price) == (
        asked.name, asked.proxy, asked.reasoning, asked.sampling, asked.price,
    )  # fmt: skip
    assert made.services[SERVICE].max_output_tokens == found.output_tokens
    assert 0 < found.cost_max_usd <= 0.01
    assert {name: value for name, value in found.variables.items() if not name.startswith("SSL_")} == {
        "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "https://x.example/v1", "QSTREAMD_HTTPS_PROXY": "http://p:1",
    }  # fmt: skip


@pytest.mark.parametrize(("provider", "said"), [("gemini", "GEMINI_API_KEY: not set"), ("deepseek", "has no model")])
def test_what_is_missing_is_named(tmp_path: Path, provider: str, said: str) -> None:
    given = settings(tmp_path, deepseek_api_key=SecretStr("k"))
    with pytest.raises(ConfigError, match=said):
        real(given, provider)
