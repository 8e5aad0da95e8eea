"""Looks at everything around a deployment and names each trouble with its cure. Changes nothing, costs nothing.

The checks are small functions in `checkup`; this module only decides which of them can be asked.
"""

from __future__ import annotations

from daemon.admin.checkup import host, postgres_server, provider_hosts, public_url, queues, redis_server
from daemon.admin.checkup.finding import Finding, error, ok, warning
from daemon.admin.config_check import check_config
from daemon.admin.connections import Connections
from daemon.admin.status import read_overview
from daemon.config import Settings
from daemon.domain.errors import ConfigError, DependencyAway


def configuration() -> list[Finding]:
    """What `check` finds."""
    found = check_config()
    mistakes = [error("config", line, "put it right where it is set; `config` says where each came from")
                for line in found.mistakes]  # fmt: skip
    warnings = [warning("config", line, _cure(line)) for line in found.warnings]
    return [*mistakes, *warnings] or [ok("config", f"{len(found.settings)} settings, {len(found.services)} services")]


def _cure(doubt: str) -> str:
    if "is not set: tasks of" in doubt:
        return "set the key, or a services file (SERVICES_FILE) without these models"
    return "look the setting up in docs/settings.md; `config` says where its value came from"


async def examine(settings: Settings, *, providers: bool) -> list[Finding]:
    """Findings about servers, host, public address and (only if asked) providers."""
    found = _signing(settings)
    async with Connections(settings, redis_may_be_away=True) as at:
        found += await _redis(at)
        found += await _postgres(at)
        found += await host.check(settings)
        found += await public_url.check(settings, at.catalog, at.clock)
        if providers:
            found += await provider_hosts.check(settings, at.catalog, at.clock)
    return found


async def _redis(at: Connections) -> list[Finding]:
    try:
        return [*await redis_server.check(at), *queues.check(await read_overview(at, recent=False))]
    except DependencyAway as away:
        cure = "is it running? Are address, password and firewall right? It is REDIS_URL that names it"
        return [error("redis.reach", str(away), cure)]


async def _postgres(at: Connections) -> list[Finding]:
    try:
        return await postgres_server.check(at)
    except DependencyAway as away:
        cure = "is it running? Are address, password and firewall right? It is DATABASE_URL that names it"
        return [error("postgres.reach", str(away), cure)]
    except ConfigError as missing:
        cure = "the daemon and the gateway need it; a relay does not"
        return [warning("postgres.reach", line, cure) for line in missing.mistakes]


def _signing(settings: Settings) -> list[Finding]:
    """Keys that can't be right together."""
    current = {key.get_secret_value() for key in settings.qstash.current_keys}
    subscription = {key.get_secret_value() for key in settings.qstash.next_keys}
    if current & subscription:
        text = "QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY are the same"
        return [warning("config.keys", text, "copy both from the QStash console; calls fail when keys roll otherwise")]
    return []
