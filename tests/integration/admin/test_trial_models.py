"""Calls of a trial against stand-ins over real HTTP: what works, what does not, and whose fault it is."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from pydantic import BaseModel

from daemon.admin.trial.model_calls import Calls
from daemon.admin.trial.plan import plan
from daemon.admin.trial.result import Result
from daemon.admin.trial.transcript import transcript
from daemon.config import ProviderSettings
from daemon.config.types import SecretStr
from daemon.dev.fake_llm import FakeLLM
from daemon.domain.clock import SystemClock
from daemon.services import Model, Price
from tests.connect_proxy import ConnectProxy
from tests.tls import certificate, tls_before

Group = TypeVar("Group", bound=BaseModel)
PROVIDERS = ("deepseek", "openai", "gemini")
KEY = "test-key-0123456789"
PRICE = Price(0.1, 0.1, 0.5)


@pytest.fixture
async def fake() -> AsyncIterator[FakeLLM]:
    """Speaks all three shapes, fast."""
    async with FakeLLM(tokens_per_s=2000, first_token_s=0.01) as running:
        yield running


def settings(url: str, proxy: str = "") -> ProviderSettings:
    told: dict[str, Any] = {f"{name}_api_key": SecretStr(KEY) for name in PROVIDERS}
    told |= {f"{name}_base_url": url if name == "gemini" else f"{url}/v1" for name in PROVIDERS}
    return ProviderSettings(**told, https_proxy=SecretStr(proxy) if proxy else None)


def model(provider: str, name: str = "m", **more: Any) -> Model:
    return Model(f"{provider}-{name}", provider, name, prices=(PRICE,), **more)


def changed(group: Group, **fields: Any) -> Group:
    """The settings with other values."""
    return group.model_copy(update=fields)


async def tried(calls: Calls, *models: Model) -> Sequence[Result]:
    return [result async for result in calls.run(plan(models, dict.fromkeys(PROVIDERS, "")))]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_both_calls_work_and_their_answers_are_kept(fake: FakeLLM, provider: str) -> None:
    calls = Calls(settings(fake.url), SystemClock())
    results = await tried(calls, model(provider))
    assert [(r.what, r.state) for r in results] == [
        (f"{provider}-m streamed call", "works"), (f"{provider}-m JSON call", "works"),
    ]  # fmt: skip
    assert all((r.cost_usd or 0) > 0 and "$" in r.text for r in results)
    assert [call.stream for call in fake.calls] == [True, False]
    names = [name for name, _ in calls.transcripts]
    assert names == [f"{provider}-{provider}-m-stream.http", f"{provider}-{provider}-m-json.http"]
    streamed, whole = (transcript(exchange, [KEY]) for _, exchange in calls.transcripts)
    assert streamed.startswith(b"HTTP 200 Content-Type: text/event-stream\n\n") and b"data: {" in streamed
    assert whole.startswith(b"HTTP 200 Content-Type: application/json\n\n")
    assert KEY.encode() not in streamed + whole


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [("401", "key"), ("403", "key"), ("404", "model"), ("402", "quota"), ("quota", "quota"), ("429", "rate_limit"),
     ("500", "provider"), ("503", "provider"), ("garbage", "network"), ("reset", "network"), ("400", "request"),
     ("no-finish", "answer"), ("cut", "network")],
)  # fmt: skip
async def test_whose_fault_it_is(fake: FakeLLM, provider: str, fault: str, kind: str) -> None:
    """A firewall's page and a cut line are a network's, whatever their status; a key is a key's."""
    first, *_ = await tried(Calls(settings(fake.url), SystemClock()), model(provider, f"m-fault-{fault}"))
    assert (first.state, first.kind) == ("fails", kind), first
    assert first.cure and KEY not in str(first)


async def test_what_a_key_fails_at_is_not_tried_again_for_the_next_model(fake: FakeLLM) -> None:
    """One refused call, and the rest of that provider is skipped; others are called."""
    models = (model("openai", "a-fault-401"), model("openai", "b"), model("gemini", "c"))
    results = await tried(Calls(settings(fake.url), SystemClock()), *models)
    assert [r.state for r in results] == ["fails", "skipped", "skipped", "skipped", "works", "works"]
    assert len(fake.calls) == 3


async def test_a_refused_parameter_is_named_and_left_out() -> None:
    """As the daemon does it: the call succeeds, and somebody is told what to set."""
    async with FakeLLM(tokens_per_s=2000, first_token_s=0.01, strict=True) as strict:
        calls = Calls(settings(strict.url), SystemClock())
        results = await tried(
            calls, model("openai", "gpt-6-luna"), model("gemini", "gemini-3.8-flash", reasoning="off")
        )
    assert [(r.state, r.kind) for r in results] == [("works, but", "parameter")] * 4
    assert "temperature" in results[0].text and "sampling" in results[0].cure
    assert "reasoning" in results[2].text
    async with FakeLLM(tokens_per_s=2000, first_token_s=0.01, strict=True) as strict:
        results = await tried(Calls(settings(strict.url), SystemClock()), model("openai", "gpt-6-luna", sampling=False))
    assert [r.state for r in results] == ["works", "works"]


async def test_an_answer_that_is_all_thoughts_is_no_failure(fake: FakeLLM) -> None:
    """The few tokens of a trial may be used up before the first word."""
    results = await tried(Calls(settings(fake.url), SystemClock()), model("openai", "m-fault-empty"))
    assert [(r.state, r.kind) for r in results] == [("works, but", "empty")] * 2


async def test_a_host_that_is_not_there_is_a_blocked_network() -> None:
    with socket.socket() as taken:  # bound and not listening: a connect is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        first, second = await tried(Calls(settings(url), SystemClock()), model("openai"))
    assert (first.kind, "blocked network" in first.cure, "QSTREAMD_HTTPS_PROXY" in first.cure) == (
        "network",
        True,
        True,
    )
    assert second.state == "skipped"
    [unknown, _] = await tried(Calls(settings("http://no-such-host.invalid"), SystemClock()), model("gemini"))
    assert (unknown.kind, "can't be resolved" in unknown.text) == ("network", True)


async def test_the_proxy_is_used_and_its_refusals_are_its_own(fake: FakeLLM, tmp_path: Path, monkeypatch: Any) -> None:
    """Over TLS, with the way out that the daemon would take; a wrong password is not a bad key."""
    file = certificate(tmp_path, "models.invalid")
    port = urlsplit(fake.url).port or 0
    async with tls_before(port, file) as tls, ConnectProxy("s3cret-word") as proxy:
        proxy.to["models.invalid:443"] = ("127.0.0.1", tls)
        through = settings("https://models.invalid", proxy.url)
        [untrusted, _] = await tried(Calls(through, SystemClock()), model("openai"))
        assert untrusted.kind == "tls"
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=str(file)))
        results = await tried(Calls(through, SystemClock()), model("openai"), model("gemini"))
        assert [r.state for r in results] == ["works"] * 4
        wrong = changed(through, https_proxy=SecretStr(proxy.url.replace("s3cret", "wr0ng")))
        [refused, _] = await tried(Calls(wrong, SystemClock()), model("openai"))
        assert (refused.kind, "407" in refused.text) == ("proxy", True)
        assert "wr0ng-word" not in str(refused)
        [direct, _] = await tried(Calls(through, SystemClock()), model("openai", proxy="direct"))
        assert direct.kind == "network", "around the proxy the name leads nowhere"


async def test_a_country_that_is_not_served_is_no_bad_key() -> None:
    async def refuse(_: web.Request) -> web.Response:
        said = {
            "code": "unsupported_country_region_territory",
            "message": "Country, region, or territory not supported",
        }
        return web.json_response({"error": said}, status=403)

    app = web.Application()
    app.router.add_post("/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    first, _ = await tried(Calls(settings(url), SystemClock()), model("openai"))
    await runner.cleanup()
    assert (first.kind, "proxy" in first.cure) == ("region", True)
