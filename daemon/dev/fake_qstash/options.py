"""What a publisher can ask for in headers, read and checked in one place.

The same names configure a message (`Upstash-…`) and its failure callback (`Upstash-Failure-Callback-…`), so one parser
reads both. What this fake does not do (schedules, other callbacks) is refused by name, so that nobody relies on it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from daemon.dev.fake_qstash.delays import DELAY_S_MAX, RetryDelay, duration_s
from daemon.dev.fake_qstash.mischief import Mischief

Headers = tuple[tuple[str, str], ...]

RETRIES_DEFAULT: Final = 3
RETRIES_MAX: Final = 1000
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PERIOD_S_MAX: Final = 7 * 86400.0
#: What a header with such a prefix belongs to.
_PREFIXES: Final[Mapping[str, str]] = {
    "upstash-forward-": "forward",
    "upstash-failure-callback-": "failure_callback_headers",
}


class Refused(Exception):
    """The publisher asked for something that this QStash does not do; `status` is the HTTP answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class FlowLimit:
    """`Upstash-Flow-Control-Key` and `-Value`."""

    key: str
    parallelism: int | None = None
    rate: int | None = None
    period_s: float = 1.0

    @classmethod
    def parse(cls, key: str, text: str) -> FlowLimit:
        """The limits in `parallelism=5, rate=10, period=1m`. Raises Refused (400)."""
        limits: dict[str, Any] = {}
        for item in text.split(","):
            name, _, value = (part.strip() for part in item.partition("="))
            try:
                if name in ("parallelism", "rate") and value.isdecimal() and int(value) > 0:
                    limits[name] = int(value)
                elif name == "period" and 0 < duration_s(value) <= _PERIOD_S_MAX:
                    limits["period_s"] = duration_s(value)
                else:
                    raise ValueError("unknown or out of range")
            except ValueError as error:
                raise Refused(f"Upstash-Flow-Control-Value: {text[:80]!r}: {error}") from error
        if limits.keys() <= {"period_s"}:
            raise Refused("Upstash-Flow-Control-Value needs parallelism or rate")
        return cls(key, **limits)


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that headers can say about one message."""

    method: str = "POST"
    content_type: str | None = None
    forward: Headers = ()
    retries: int = RETRIES_DEFAULT
    retry_delay: RetryDelay | None = None
    delay_s: float = 0.0
    not_before: float | None = None  #: unix seconds of the publisher's clock; wins over the delay
    timeout_s: float | None = None  #: real seconds
    deduplication_id: str | None = None
    failure_callback: str | None = None
    failure_callback_headers: Headers = ()
    flow: FlowLimit | None = None
    mischief: Mischief | None = None

    @classmethod
    def parse(cls, headers: Iterable[tuple[str, str]]) -> Options:
        """Options read from publish headers. Raises Refused (400) naming the header that makes no sense."""
        read: dict[str, Any] = {}
        prefixed: dict[str, list[tuple[str, str]]] = {field: [] for field in _PREFIXES.values()}
        for name, value in headers:
            if not name.isascii() or any(ord(c) < 32 and c != "\t" for c in name + value):
                raise Refused(f"invalid header {name[:40]!r}")
            low = name.lower()
            prefix = next((start for start in _PREFIXES if low.startswith(start)), None)
            try:
                if low in _READERS:
                    read.update(_READERS[low](value))
                elif prefix is not None:
                    own_name, field = name[len(prefix) :], _PREFIXES[prefix]
                    prefixed[field].append((own_name if field == "forward" else f"Upstash-{own_name}", value))
            except ValueError as error:
                raise Refused(f"{name}: {error}") from error
        key, limits = read.pop("flow_key", ""), read.pop("flow_value", "")
        read |= {field: tuple(pairs) for field, pairs in prefixed.items()}
        return cls(**read, flow=FlowLimit.parse(key, limits) if key else None)


def _method(text: str) -> dict[str, Any]:
    if text.upper() not in METHODS:
        raise ValueError(f"method {text[:20]!r} is not one of {', '.join(METHODS)}")
    return {"method": text.upper()}


def _retries(text: str) -> dict[str, Any]:
    if not text.isdecimal() or int(text) > RETRIES_MAX:
        raise ValueError(f"retries must be 0 to {RETRIES_MAX}, not {text[:20]!r}")
    return {"retries": int(text)}


def _delay(text: str) -> dict[str, Any]:
    if (delay_s := duration_s(text)) > DELAY_S_MAX:
        raise ValueError(f"longer than {DELAY_S_MAX:.0f} s")
    return {"delay_s": delay_s}


def _timeout(text: str) -> dict[str, Any]:
    if (timeout_s := duration_s(text)) <= 0:
        raise ValueError("a timeout must be positive")
    return {"timeout_s": timeout_s}


def _absent(_: str) -> dict[str, Any]:
    raise ValueError("the fake QStash does not do that")


_READERS: Final[Mapping[str, Callable[[str], dict[str, Any]]]] = {
    "content-type": lambda v: {"content_type": v},
    "upstash-method": _method,
    "upstash-retries": _retries,
    "upstash-retry-delay": lambda v: {"retry_delay": RetryDelay.parse(v)},
    "upstash-delay": _delay,
    "upstash-not-before": lambda v: {"not_before": float(v)},
    "upstash-timeout": _timeout,
    "upstash-deduplication-id": lambda v: {"deduplication_id": v},
    "upstash-failure-callback": lambda v: {"failure_callback": require_loopback(v)},
    **dict.fromkeys(("upstash-callback", "upstash-content-based-deduplication", "upstash-cron"), _absent),
    "upstash-flow-control-key": lambda v: {"flow_key": v},
    "upstash-flow-control-value": lambda v: {"flow_value": v},
    "upstash-fake-mischief": lambda v: {"mischief": Mischief.parse(v)},
    # The Python client puts the prefix before every header that it does not know.
    "upstash-forward-upstash-fake-mischief": lambda v: {"mischief": Mischief.parse(v)},
}


def require_loopback(url: str) -> str:
    """The URL, if it leads to this machine; a fake that could call strangers would be a weapon. Raises Refused."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(f"not a URL: {url[:200]!r}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Refused(f"not an http(s) URL: {url[:200]!r}")
    local = host == "localhost" or host.endswith(".localhost")
    if not local:
        try:
            local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = False
    if not local:
        raise Refused(f"the fake QStash delivers to loopback addresses only, not to {host[:100]!r}")
    return url
