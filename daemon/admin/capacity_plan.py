"""From a load to what somebody sets: slots, processes, queue limit, memory, money, and which provider limit binds.

Pure: numbers in, `Plan` out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from daemon.admin.capacity import Load, Outcome, backlog_s, ceiling, erlang, simulate, slots_for, with_timeout
from daemon.services.catalog import Model

MB_A_PROCESS: Final = 90.0  #: an idle daemon (architecture 4)
MB_A_SLOT: Final = 1.5  #: an attempt that streams: HTTP buffers, TLS, its text
WARN_UTILISATION: Final = 0.75  #: beyond it waits explode with each burst
MONTH_MINUTES: Final = 60 * 24 * 30
EXTRA: Final = (-2, -1, 0, 1, 2, 5)  #: rows of the table around the answer


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wanted of the load, and what it runs on."""

    target: float
    slots_a_process: int
    lost: int = 0  #: processes that may be away (a deploy, a host) while the promise still holds
    backlog: int = 0
    wait_max_s: float = 120.0  #: longer than this nobody should be let in
    tokens_in: int = 0
    tokens_out: int = 0
    models: tuple[Model, ...] = ()
    attempts_a_task: float = 1.05  #: retries included


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a provider's model against what the load asks of it. `share` above 1 binds."""

    model: str
    what: str  #: concurrency, requests_per_minute, tokens_per_minute
    needed: float
    allowed: float
    share: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. `chosen` None: no number of slots reaches the target."""

    verdict: str
    reachable: bool
    ceiling: float
    chosen: Outcome | None
    offered: float
    wait_share: float | None  #: P(wait) by Erlang C, steady arrivals
    table: list[Outcome]
    processes: int
    slots: int  #: with the processes that may be lost
    max_size: int  #: of the queue, so that nobody who is let in waits longer than `wait_max_s`
    memory_mb: int
    backlog_s: float | None
    limits: list[Limit]
    cost_month_usd: float | None
    advice: list[str]


def plan(load: Load, wishes: Wishes) -> Plan:
    """The smallest set-up that keeps the promise, or what stands in its way. Takes about a second of computing."""
    most = ceiling(load)
    chosen = slots_for(load, wishes.target)
    basis = chosen or simulate(load, math.ceil(load.offered * max(1.0, load.burst) * 1.5) + 1)
    kept = math.ceil(basis.slots / wishes.slots_a_process)
    processes = kept + wishes.lost
    slots = processes * wishes.slots_a_process
    limits = sorted(_limits(load, wishes), key=lambda limit: -limit.share)
    late = backlog_s(load, basis.slots, wishes.backlog) if wishes.backlog else None
    return Plan(
        verdict=_verdict(load, wishes, most, chosen),
        reachable=chosen is not None,
        ceiling=most,
        chosen=chosen,
        offered=load.offered,
        wait_share=erlang(load, basis.slots).wait_share if basis.slots > load.offered else None,
        table=[simulate(load, basis.slots + n) for n in EXTRA if basis.slots + n >= 1],
        processes=processes,
        slots=slots,
        max_size=max(1, math.floor(basis.slots * wishes.wait_max_s / load.served_mean_s)),
        memory_mb=math.ceil(processes * MB_A_PROCESS + slots * MB_A_SLOT),
        backlog_s=late,
        limits=limits,
        cost_month_usd=_cost(load, wishes),
        advice=list(_advice(load, wishes, most, chosen, limits)),
    )


def _verdict(load: Load, wishes: Wishes, most: float, chosen: Outcome | None) -> str:
    promise = f"{load.sla_s:g} s"
    bursts = f" with {load.burst:g}x bursts of {load.burst_s / 60:g} min each hour" if load.burst_s else ""
    top = (
        f"the ceiling is {most:.2%}: {1 - most:.2%} of these tasks take longer than {promise} by themselves"
        if most < 1
        else f"every attempt ends before {promise}"
    )
    if chosen is None:
        return f"No number of slots ends {wishes.target:.2%} within {promise}; {top}."
    return (
        f"{chosen.slots} slots end {chosen.in_sla:.2%} within {promise} at {load.per_minute:g} a minute{bursts}; {top}."
    )


def _limits(load: Load, wishes: Wishes) -> list[Limit]:
    peak = load.per_minute * max(1.0, load.burst if load.burst_s else 1.0) * wishes.attempts_a_task
    at_once = peak / 60 * load.served_mean_s
    found = []
    for model in wishes.models:
        asked: list[tuple[str, float, float | None]] = [
            ("concurrency", at_once, float(sum(model.concurrency.values())) or None),
            ("requests_per_minute", peak, model.requests_per_minute),
            ("tokens_per_minute", peak * (wishes.tokens_in + wishes.tokens_out), model.tokens_per_minute),
        ]
        found += [
            Limit(model.id, what, needed, allowed, needed / allowed) for what, needed, allowed in asked if allowed
        ]
    return found


def _cost(load: Load, wishes: Wishes) -> float | None:
    if not wishes.models or wishes.models[0].price is None or not wishes.tokens_in + wishes.tokens_out:
        return None
    price, factor = wishes.models[0].price, max(1.0, load.burst)
    mean = load.per_minute * (1 + (factor - 1) * load.burst_s / 3600)
    a_task = (wishes.tokens_in * price.input + wishes.tokens_out * price.output) / 1e6
    return mean * MONTH_MINUTES * wishes.attempts_a_task * a_task


def _advice(load: Load, wishes: Wishes, most: float, chosen: Outcome | None, limits: list[Limit]) -> list[str]:
    said = []
    if chosen is None or (most < 1 and wishes.target > most - 0.005):
        limit_s = min(load.sla_s * 0.6, load.p95_s)
        capped = with_timeout(load, limit_s)
        found = slots_for(capped, max(wishes.target, 0.99))
        if found is not None:
            cut = load.shape.tail(limit_s)
            said.append(
                f"total_s = {limit_s:g} in the services file would let {found.slots} slots end {found.in_sla:.2%} in"
                f" time, at the price of ending {cut:.1%} of the attempts unfinished."
            )
    if chosen is not None and chosen.utilisation > WARN_UTILISATION and not load.burst_s:
        bursty = math.ceil(2 * load.offered)
        said.append(
            f"These slots are busy {chosen.utilisation:.0%} of the time: steady arrivals only. For bursts plan about"
            f" {bursty} (try --burst 3x5m)."
        )
    binding = next((limit for limit in limits if limit.share > 1), None)
    if binding is not None:
        said.append(
            f"{binding.model} binds first: {binding.what} would be {binding.needed:.0f} of {binding.allowed:.0f}."
            " More slots do not help before that limit is raised or the load is split between models."
        )
    return said
