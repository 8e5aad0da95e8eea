"""One signed call to this relay: signed by ourselves, and by QStash itself where a token is given. Queues nothing.

The message goes to `/api/worker/check`, so it costs one message of QStash's daily allowance and no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from daemon.admin.checkup import public_url
from daemon.admin.checkup.verdict import Peer, of_exception
from daemon.admin.trial.result import Result, fails, flawed, of_finding, skipped, works
from daemon.config import Settings
from daemon.ports import Clock
from daemon.services import ServiceCatalog

CALL_S: Final = 10.0
TRIP_S: Final = 30.0  #: QStash delivers within a second or two
LOOK_S: Final = 0.5
WHAT: Final = "round trip"
_PEER: Final = "QStash"


async def probe(settings: Settings, catalog: ServiceCatalog, clock: Clock) -> AsyncGenerator[Result, None]:
    """Results as they come."""
    for finding in await public_url.check(settings, catalog, clock):
        part, _, what = finding.check.partition(".")
        yield of_finding(part, f"{what} call" if what in ("signed", "unsigned") else what, finding)
    yield await _trip(settings, catalog, clock)


async def _trip(settings: Settings, catalog: ServiceCatalog, clock: Clock) -> Result:
    base, token = settings.relay.base_url, settings.qstash.token
    if base is None or token is None:
        missing = "WORKER_BASE_URL" if base is None else "QSTASH_TOKEN"
        text = f"{missing} is not set, so QStash itself was not asked"
        return skipped("qstash", WHAT, text, f"set {missing} for this command, too")
    local = any("address of this network only" in finding.text for finding in public_url.plain(base))
    if local and settings.qstash.url.startswith("https://"):
        return skipped("qstash", WHAT, f"{base} is of this network only: QStash can't call it")
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
    began = clock.monotonic()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_S), headers=headers) as http:
            published = await _publish(http, settings.qstash.url, base, public_url.message(catalog))
            if isinstance(published, Result):
                return published
            return await _delivered(http, settings.qstash.url, published, clock, began)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        found = of_exception(error, Peer(_PEER, urlsplit(settings.qstash.url).hostname or ""))
        cure = "blocked network: may this host reach the address in QSTASH_URL?"
        return fails("qstash", WHAT, found.text, cure, found.kind)


async def _publish(http: aiohttp.ClientSession, url: str, base: str, body: bytes) -> str | Result:
    """The message's id, or why there is none."""
    headers = {"Content-Type": "application/json", "Upstash-Method": "POST", "Upstash-Retries": "0"}
    async with http.post(f"{url}/v2/publish/{base}{public_url.PATH}", data=body, headers=headers) as answer:
        if answer.status in (401, 403):
            cure = "bad key: copy QSTASH_TOKEN again from the QStash console, of the region in QSTASH_URL"
            return fails("qstash", WHAT, f"QStash refuses the token ({answer.status})", cure, "key")
        if answer.status == 429:
            cure = "the daily allowance of messages is used up: wait, or another plan"
            return fails("qstash", WHAT, "QStash takes no more messages today (429)", cure, "quota")
        said: Any = await answer.json(content_type=None)
        message_id = said.get("messageId") if isinstance(said, dict) else None
        if answer.status >= 300 or not message_id:
            cure = "is QSTASH_URL that of the QStash console?"
            return fails("qstash", WHAT, f"QStash answered {answer.status}", cure, "provider")
        return str(message_id)


async def _delivered(http: aiohttp.ClientSession, url: str, message_id: str, clock: Clock, began: float) -> Result:
    """What QStash's log says of the message."""
    while clock.monotonic() - began < TRIP_S:
        async with http.get(f"{url}/v2/logs", params={"messageId": message_id}) as answer:
            if answer.status != 200:
                cure = "look into the logs of the QStash console"
                text = f"handed over; QStash does not say what became of it ({answer.status})"
                return flawed("qstash", WHAT, text, cure, "unconfirmed")
            said: Any = await answer.json(content_type=None)
        entries = [e for e in (said.get("events") or said.get("logs") or ()) if isinstance(e, dict)]
        states = {str(entry.get("state", "")).upper(): entry for entry in entries}
        took_s = clock.monotonic() - began
        if "DELIVERED" in states:
            return works("qstash", WHAT, f"published, signed by QStash and accepted by the relay, in {took_s:.1f} s")
        for state in ("FAILED", "ERROR"):
            if state in states:
                return _failed(states[state])
        await asyncio.sleep(LOOK_S)
    cure = "look into the logs of the QStash console, and at the relay's log"
    return flawed("qstash", WHAT, f"handed over, but not delivered within {TRIP_S:.0f} s", cure, "unconfirmed")


def _failed(entry: dict[str, Any]) -> Result:
    status = entry.get("responseStatus")
    if not status:
        cure = (
            "does DNS lead to this host, and does the firewall let port 443 in? It is WORKER_BASE_URL that QStash calls"
        )
        return fails("qstash", WHAT, "QStash does not reach the relay", cure, "network")
    found = public_url.finding_of(int(status), None, 0.0)
    return fails("qstash", WHAT, f"the relay answered QStash with {status}", found.cure, "key" if status == 401 else
                 "relay")  # fmt: skip
