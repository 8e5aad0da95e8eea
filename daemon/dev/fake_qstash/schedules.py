"""Schedules: a cron expression that publishes the same message again and again, until it is paused or deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from daemon.dev.fake_qstash.clock import Clock
from daemon.dev.fake_qstash.cron import Cron
from daemon.dev.fake_qstash.message import grouped, milliseconds, text_or_base64
from daemon.dev.fake_qstash.options import Options, Refused
from daemon.dev.fake_qstash.signing import random_id

SCHEDULES_MAX: Final = 1000


@dataclass(slots=True)
class Schedule:
    """One schedule; times in unix seconds of the fake's clock."""

    id: str
    destination: str
    body: bytes
    options: Options
    cron: Cron
    caller_ip: str
    created_at: float
    next_at: float
    last_at: float | None = None
    paused: bool = False
    error: str | None = None
    timer: asyncio.Future[object] | None = None

    def as_json(self) -> dict[str, Any]:
        """The schedule as the API shows it."""
        options, flow = self.options, self.options.flow
        header = grouped(options.forward)
        if options.content_type is not None:
            header["Content-Type"] = [options.content_type]
        shown = {
            "scheduleId": self.id,
            "cron": self.cron.text,
            "destination": self.destination,
            "createdAt": milliseconds(self.created_at),
            "method": options.method,
            "header": header,
            **text_or_base64("body", self.body),
            "retries": options.retries,
            "retryDelayExpression": options.retry_delay.text if options.retry_delay else None,
            "delay": int(options.delay_s) or None,
            "timeout": int(options.timeout_s) if options.timeout_s else None,
            "callback": options.callback,
            "callbackHeader": grouped(options.callback_headers) or None,
            "failureCallback": options.failure_callback,
            "failureCallbackHeader": grouped(options.failure_callback_headers) or None,
            "callerIP": self.caller_ip,
            "isPaused": self.paused,
            "queueName": options.queue,
            "label": options.label,
            "flowControlKey": flow.key if flow else None,
            "parallelism": flow.parallelism if flow else None,
            "rate": flow.rate if flow else None,
            "period": int(flow.period_s) if flow and flow.rate else None,
            "lastScheduleTime": milliseconds(self.last_at) if self.last_at is not None else None,
            "nextScheduleTime": milliseconds(self.next_at),
            "error": self.error,
        }
        return {name: value for name, value in shown.items() if value is not None}


class Schedules:
    """All schedules; `fire` publishes one message of a schedule and returns its id(s)."""

    def __init__(self, clock: Clock, fire: Callable[[Schedule], Any]) -> None:
        self.all: dict[str, Schedule] = {}
        self._clock = clock
        self._fire = fire

    def create(self, destination: str, body: bytes, options: Options, *, caller_ip: str) -> Schedule:
        """A new schedule, or the one of that id with new content. Raises Refused."""
        try:
            cron = Cron.parse(options.cron or "")
        except ValueError as error:
            raise Refused(f"Upstash-Cron: {error}") from error
        schedule_id = options.schedule_id or random_id("scd_")
        if schedule_id not in self.all and len(self.all) >= SCHEDULES_MAX:
            raise Refused(f"at most {SCHEDULES_MAX} schedules", 412)
        self.delete(schedule_id)
        now = self._clock.now()
        schedule = Schedule(schedule_id, destination, body, options, cron, caller_ip, now, cron.next_after(now))
        self.all[schedule_id] = schedule
        self._arm(schedule)
        return schedule

    def delete(self, schedule_id: str) -> bool:
        """Was there such a schedule? It fires no more; messages it published go on."""
        schedule = self.all.pop(schedule_id, None)
        if schedule is not None and schedule.timer is not None:
            schedule.timer.cancel()
        return schedule is not None

    def trigger(self, schedule: Schedule) -> Any:
        """Publish now, whatever its time and pause: what `fire` returns."""
        schedule.last_at = self._clock.now()
        return self._fire(schedule)

    def _arm(self, schedule: Schedule) -> None:
        schedule.next_at = schedule.cron.next_after(self._clock.now())
        schedule.timer = self._clock.timer(schedule.next_at)
        schedule.timer.add_done_callback(lambda timer: None if timer.cancelled() else self._due(schedule))

    def _due(self, schedule: Schedule) -> None:
        try:
            if not schedule.paused:
                self.trigger(schedule)
                schedule.error = None
        except Refused as error:
            schedule.error = str(error)
        self._arm(schedule)
