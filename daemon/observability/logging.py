"""Log lines: dotted events with ids and numbers, never content. The only module that knows structlog.

What a task says and what opens doors is removed by a processor (`redaction`), whatever the caller hands in; it holds
before `configure` too. One JSON object a line on stderr; lines of libraries come in as `library.warned` without their
arguments.

    log = logger("worker.consumer")
    log.info("batch.read", queue=queue, entries=3)
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TextIO, cast

import msgspec

from daemon.config import RuntimeSettings, Settings, secrets
from daemon.observability.log_rates import LogRates
from daemon.observability.redaction import Redaction

# Where the demo's extra is installed, structlog would import rich: 55 ms and 3 MB of every process, the relay too, for
# tracebacks that are never printed here. It takes no for an answer; whoever wants rich can import it afterwards.
_RICH_IS_LOADED: Final = "rich" in sys.modules
if not _RICH_IS_LOADED:
    sys.modules["rich"] = cast(Any, None)
import structlog  # noqa: E402

if not _RICH_IS_LOADED:
    del sys.modules["rich"]

_EVENT: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")
_NUMBERS: Final = MappingProxyType(
    {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
)
_SYSLOG: Final = MappingProxyType({"debug": 7, "info": 6, "warning": 4, "error": 3})

Fields = MutableMapping[str, Any]


@dataclass(slots=True)
class _Sink:
    """Where lines go and what they look like; set by `configure`."""

    level: int = logging.INFO
    console: structlog.dev.ConsoleRenderer | None = None  #: None: JSON
    priorities: bool = False
    redaction: Redaction = field(default_factory=Redaction)
    rates: LogRates = field(default_factory=LogRates)
    stream: TextIO | None = None  #: None: whatever sys.stderr is when the line is written

    def msg(self, line: str) -> None:
        """Write one finished line. A full disk or a closed pipe loses the line, never a task."""
        stream = self.stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass


_sink: Final = _Sink()


class _Output:
    """The end of a logger's chain; looks the sink up late, so that loggers may be made before `configure`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        _sink.msg(line)


class Logger(structlog.BoundLoggerBase):
    """Keyword fields only: there is no message to format content into."""

    def debug(self, event: str, **fields: object) -> None:
        """For developers; costs one comparison when off."""
        if _sink.level <= logging.DEBUG:
            self._proxy_to_logger("msg", event, level="debug", **fields)

    def info(self, event: str, **fields: object) -> None:
        """Something happened as it should."""
        if _sink.level <= logging.INFO:
            self._proxy_to_logger("msg", event, level="info", **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something went wrong and was handled; somebody may want to know."""
        if _sink.level <= logging.WARNING:
            self._proxy_to_logger("msg", event, level="warning", **fields)

    def error(self, event: str, **fields: object) -> None:
        """Something went wrong and a person should look."""
        self._proxy_to_logger("msg", event, level="error", **fields)

    def exception(self, event: str, **fields: object) -> None:
        """`error` with the exception being handled; `exc_info=error` does the same at any level."""
        fields.setdefault("exc_info", True)
        self.error(event, **fields)


def logger(name: str) -> Logger:
    """A logger whose lines carry `logger: name`. Made at module level; does nothing until its first line."""
    return cast(
        Logger,
        structlog.wrap_logger(
            _Output(name),
            processors=_CHAIN,
            wrapper_class=Logger,
            context_class=dict,
            cache_logger_on_first_use=True,
        ),
    )


def debugging() -> bool:
    """Whether debug lines are written: guards the cost of making their fields."""
    return _sink.level <= logging.DEBUG


@contextmanager
def bind_attempt(**ids: object) -> Iterator[None]:
    """Every line inside (and in tasks started inside) carries these ids, until the block ends."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def begin(settings: Settings) -> None:
    """Configure the log of a process from its settings, mask its secrets, and say what is doubtful about them."""
    configure(settings.runtime, secrets(settings))
    for doubt in settings.warnings:
        _settings_log.warning("settings.warning", reason=doubt)


def configure(runtime: RuntimeSettings, masked: Iterable[str] = (), *, stream: TextIO | None = None) -> None:
    """Set level and form for the whole process, mask these secrets in every value, take in the libraries' warnings.

    May be called again; the last call holds. `stream` None means stderr.
    """
    out = stream or sys.stderr
    pretty = runtime.log_format == "pretty" or (runtime.log_format == "auto" and _isatty(out))
    colours = pretty and _isatty(out) and not runtime.no_color
    _sink.level = _NUMBERS[runtime.log_level]
    _sink.console = structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=28) if pretty else None
    _sink.priorities = not pretty and _is_journal(out, runtime.journal_stream)
    _sink.redaction = Redaction(masked)
    _sink.rates = LogRates()
    _sink.stream = stream
    logging.root.handlers[:] = [_Libraries(logging.WARNING)]
    logging.root.setLevel(logging.WARNING)


def _isatty(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False


def _is_journal(stream: TextIO, journal_stream: str | None) -> bool:
    """True when the stream is the very socket that systemd named (`device:inode`), not one that was redirected."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


# --- processors ---------------------------------------------------------------------------------------------------


def _name_event(output: _Output, _: str, fields: Fields) -> Fields:
    """An event is a constant dotted name; anything else may be content and is not printed."""
    fields["logger"] = output.name
    event = fields.get("event")
    if not isinstance(event, str) or len(event) > 64 or not _EVENT.fullmatch(event):
        fields["event"] = "log.misnamed"
    return fields


def _leave_out(_: object, __: str, fields: Fields) -> Fields:
    """A storm of one event is counted: `left_out` on the next line that is written."""
    left_out = _sink.rates.admit(fields["event"])
    if left_out is None:
        raise structlog.DropEvent
    if left_out:
        fields["left_out"] = left_out
    return fields


def _drop_content(_: object, __: str, fields: Fields) -> Fields:
    """Every field redacted; an exception described."""
    error = fields.pop("exc_info", None)
    clean = _sink.redaction.fields(fields)
    if error is True:
        error = sys.exception()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        clean["exception"] = _sink.redaction.exception(error)
    return clean


def _render(_: object, __: str, fields: Fields) -> str:
    level = fields["level"]
    if _sink.console is not None:
        exception = fields.pop("exception", None)
        line = _sink.console(None, level, fields)
        return line + (_pretty_exception(exception) if isinstance(exception, dict) else "")
    head = {"timestamp": fields.pop("timestamp"), "level": fields.pop("level"), "event": fields.pop("event")}
    line = msgspec.json.encode({**head, **fields}).decode()
    return f"<{_SYSLOG[level]}>{line}" if _sink.priorities else line


_CHAIN: Final[Sequence[Any]] = (
    structlog.contextvars.merge_contextvars,
    _name_event,
    _leave_out,
    _drop_content,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _render,
)


def _pretty_exception(described: Mapping[str, Any], title: str = "") -> str:
    lines = [f"\n  {title}{described['type']}", *(f"\n    at {frame}" for frame in described["frames"])]
    lines += [_pretty_exception(inner, "with ") for inner in described.get("errors", ())]
    if "cause" in described:
        lines.append(_pretty_exception(described["cause"], "because of "))
    return "".join(lines)


class _Libraries(logging.Handler):
    """Warnings of libraries: the first line of their template, never the arguments (asyncio puts reprs there)."""

    def emit(self, record: logging.LogRecord) -> None:
        template = str(record.msg).partition("\n")[0]
        log = _library_log.error if record.levelno >= logging.ERROR else _library_log.warning
        log("library.warned", library=record.name, template=template, exc_info=record.exc_info)


_library_log: Final = logger("library")
_settings_log: Final = logger("settings")
