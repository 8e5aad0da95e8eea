"""Does QStash reach us? A signed call to `WORKER_BASE_URL/api/worker/check`, which queues nothing, and an unsigned one.

The whole way of a real call: name, TLS, proxy, signature, Redis.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from daemon.admin.checkup.finding import Finding, error, info, ok, warning
from daemon.admin.signed_call import signature
from daemon.config import Settings
from daemon.ports import Clock
from daemon.services import ServiceCatalog

ASK_S: Final = 10.0
SLOW_S: Final = 1.0
PATH: Final = "/api/worker/check"


async def check(settings: Settings, catalog: ServiceCatalog, clock: Clock) -> list[Finding]:
    """What a call of QStash would meet."""
    base, keys = settings.relay.base_url, settings.qstash.current_keys
    if base is None:
        return [info("relay.url", "WORKER_BASE_URL is not set here; the way of QStash's calls was not tried")]
    found = list(plain(base))
    if not keys:
        cure = "set QSTASH_CURRENT_SIGNING_KEY for this command, too"
        return [*found, info("relay.signed", "no signing key here: a signed call was not tried", cure)]
    url, body = f"{base}{PATH}", message(catalog)
    token = signature(keys[0].get_secret_value(), url, body, clock.time())
    began = clock.monotonic()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S)) as session:
            status, said = await _ask(session, url, body, {"Upstash-Signature": token})
            took_s = clock.monotonic() - began
            found.append(finding_of(status, said, took_s))
            if status == 200:
                found += unsigned((await _ask(session, url, body, {}))[0], skip=settings.qstash.skip_verify)
    except (aiohttp.ClientError, OSError, TimeoutError) as failure:
        found.append(unreachable(failure, base))
    return found


async def _ask(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json", **headers}
    async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
        raw = await answer.content.read(64 * 1024)
        try:
            return answer.status, msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return answer.status, None


def message(catalog: ServiceCatalog) -> bytes:
    """A message that the relay would accept."""
    queue, service = next(iter(catalog.queues)), next(iter(catalog.services))
    return msgspec.json.encode(
        {
            "v": 1,
            "taskId": "qstreamd-doctor",
            "queueId": queue,
            "serviceId": service,
            "userId": "doctor",
            "variables": {},
        }
    )


def plain(base: str) -> list[Finding]:
    """Whether the address is one for the public."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    try:
        local = not ipaddress.ip_address(host).is_global
    except ValueError:
        local = host == "localhost" or host.endswith((".local", ".internal", ".localhost"))
    if local:
        return [info("relay.url", f"{base} is an address of this network only: QStash itself can't call it")]
    if parts.scheme == "http":
        cure = "put a proxy with TLS in front (docs/deploy/Caddyfile) and write https:// in WORKER_BASE_URL"
        return [warning("relay.url", f"{base} is not encrypted: tasks travel readable", cure)]
    return []


def finding_of(status: int, said: Any, took_s: float) -> Finding:
    """What the answer to the signed call means. Pure."""
    text = f"the signed call was answered with {status} after {took_s * 1000:.0f} ms"
    if status == 200 and isinstance(said, dict) and "accepted" in said:
        if took_s > SLOW_S:
            return warning("relay.signed", text, "look at the proxy and at the round trip from the relay to Redis")
        return ok("relay.signed", text)
    cures = {
        401: "relay and this command must have the same QSTASH_*_SIGNING_KEY and WORKER_BASE_URL, and right clocks",
        404: "the proxy must hand /api/worker/* to the relay unchanged; is something else behind this name?",
        413: "the proxy must let bodies of 1 MiB pass",
        502: "the proxy does not reach the relay: is it running? python -m daemon healthcheck ready --of relay",
        503: "the relay is up but can't work: is its Redis there? python -m daemon healthcheck ready --of relay",
        504: "the proxy does not reach the relay in time",
    }
    if 300 <= status < 400:
        cure = "a redirect breaks the signature: write the final address in WORKER_BASE_URL"
    else:
        cure = cures.get(status, "something else than the relay answers at this address: check name, proxy and path")
    return error("relay.signed", text, cure)


def unsigned(status: int, *, skip: bool) -> list[Finding]:
    """Whether strangers are sent away. Pure."""
    if status == 401:
        return [ok("relay.unsigned", "an unsigned call is refused")]
    if skip:
        return [info("relay.unsigned", "unsigned calls are taken (QSTASH_SKIP_VERIFY, development)")]
    cure = "take QSTASH_SKIP_VERIFY from the relay's environment; anybody can start paid work"
    return [error("relay.unsigned", f"an unsigned call was answered with {status}", cure)]


def unreachable(failure: BaseException, base: str) -> Finding:
    """Why no answer came. Pure."""
    host = urlsplit(base).hostname
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return error("relay.signed", f"{host} has no address", "make its DNS record, or correct WORKER_BASE_URL")
    if isinstance(failure, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        cure = "the proxy needs a certificate for this name; QStash refuses others as well"
        return error("relay.signed", f"the certificate of {host} is not valid", cure)
    if isinstance(failure, TimeoutError):
        cure = "open the port in the firewall; is the proxy running?"
        return error("relay.signed", f"{base} did not answer within {ASK_S:g} s", cure)
    cure = "start the relay and the proxy before it, and open the port"
    return error("relay.signed", f"nobody answers at {base} ({type(failure).__name__})", cure)
