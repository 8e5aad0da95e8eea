"""A real Prometheus reads a running relay, gateway and daemon, and its rules see what happens there."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs would be one more package for two calls

from daemon.dev.embedded import free_port
from daemon.redis_client import keys
from tests.e2e.gateway_world import World, world

PROMETHEUS: Final = shutil.which("prometheus")
RULES: Final = Path(__file__).parents[2] / "docs" / "deploy" / "prometheus" / "rules.yml"

pytestmark = [
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed"),
    pytest.mark.timeout(90),
]


@asynccontextmanager
async def prometheus(front: World, directory: Path) -> AsyncIterator[str]:
    """Its API's address; reads all parts each half second, with the rules as shipped but without patience."""
    rules = yaml.safe_load(RULES.read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule.pop("for", None)
    (directory / "rules.json").write_text(json.dumps(rules))
    jobs = [
        {"job_name": f"qstreamd-{name}", "static_configs": [{"targets": [part.url.removeprefix("http://")]}]}
        for name, part in front.parts.items()
    ]
    fast = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config = directory / "prometheus.json"
    config.write_text(json.dumps({"global": fast, "rule_files": ["rules.json"], "scrape_configs": jobs}))
    address = f"127.0.0.1:{free_port()}"
    process = _started(
        f"--config.file={config}", f"--web.listen-address={address}", f"--storage.tsdb.path={directory}/tsdb"
    )
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


def _started(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([str(PROMETHEUS), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def test_every_process_is_read_and_the_rules_see_it(redis_url: str, postgres_url: str, tmp_path: Path) -> None:
    """All targets are up, the sizes are those of Redis, and a paused queue sets its alert off and no other."""
    async with (
        world(redis_url, postgres_url, QSTREAMD_DEPTHS_S="0.5") as front,
        prometheus(front, tmp_path) as api,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as http,
    ):

        async def ask(path: str, **parameters: str) -> Any:
            try:
                async with http.get(f"{api}/{path}", params=parameters) as answer:
                    return (await answer.json())["data"]
            except (aiohttp.ClientError, KeyError, ValueError):
                return {}

        async def values(query: str) -> dict[str, float]:
            found = (await ask("query", query=query)).get("result", [])
            return {"/".join(v for _, v in sorted(one["metric"].items())): float(one["value"][1]) for one in found}

        async def until(query: str, wanted: dict[str, float]) -> None:
            deadline, seen = time.monotonic() + 25, {}
            while (seen := await values(query)) != wanted:
                assert time.monotonic() < deadline, f"{query} gave {seen}, not {wanted}"
                await asyncio.sleep(0.2)

        task = await front.submit(taskId="t1")
        assert (await front.events(task))[-1]["type"] == "done"
        await until("sum by (job) (up)", {f"qstreamd-{name}": 1 for name in ("relay", "daemon", "gateway")})
        await until("count(qstreamd_check_ok == 1)", {"": 5})
        await until('sum(qstreamd_task_seconds_count{outcome="done"})', {"": 1})
        await until('sum(qstreamd_accepted_total{outcome="queued"})', {"": 1})
        names = keys.queue_keys("q_free_vision")
        await front.redis.hset(names.control, mapping={"paused": "1", "why": "test", "who": "test"})
        await front.redis.publish(keys.CONTROL_CHANNEL, "q_free_vision")
        await until("max by (queue) (qstreamd_queue_paused == 1)", {"q_free_vision": 1})
        for _ in range(3):
            await front.redis.xadd(names.tasks, {"task": "x"})
        await until("qstreamd:waiting > 0", {"qstreamd:waiting/q_free_vision": 3})
        firing = {"Watchdog", "QueuePaused"}
        await until('count by (alertname) (ALERTS{alertstate="firing"})', dict.fromkeys(firing, 1))
        groups = (await ask("rules"))["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
