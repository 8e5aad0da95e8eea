"""Log lines: dotted events with ids and numbers, never content. The only module that knows structlog.

What a task says (prompts, answers, bodies) and what opens doors (keys, tokens, signatures) is removed here by a
processor, whatever the caller hands in: by name (`FORBIDDEN`), by value (configured secrets), by type (only plain
values are printed, everything else becomes its type's name) and by length. It holds before `configure` too. One JSON
object a line on stderr; lines of libraries come in as `library.warned` without their arguments.

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
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import Any, Final, TextIO, cast

import msgspec
import structlog

from daemon.config import RuntimeSettings
from daemon.errors import QstreamdError

VALUE_CHARS_MAX: Final = 256  #: longer values are cut: ids and reasons are short, content is not
ITEMS_MAX: Final = 32  #: of a list or mapping
DEPTH_MAX: Final = 3
FRAMES_MAX: Final = 24  #: innermost first to go in; the place that raised matters most
SECRET_CHARS_MIN: Final = 9  #: shorter ones are words as well (`postgres`): masking them would blind the log
MASK: Final = "***"

#: names (lower case, `_` for `-` and camel humps) whose value is never logged; `dropped` says that one was there
FORBIDDEN: Final = frozenset(
    {
        "prompt", "system", "system_instruction", "instructions", "content", "contents", "delta", "text", "output",
        "answer", "completion", "response", "body", "raw_body", "message", "messages", "message_body", "payload",
        "data", "variables", "image", "images", "input", "result", "signature", "upstash_signature", "authorization",
        "cookie", "set_cookie", "headers", "token", "key", "api_key", "secret", "password", "passphrase", "dsn",
        "credentials",
    }
)  # fmt: skip
#: … or that end in one of these words
FORBIDDEN_ENDINGS: Final = ("_prompt", "_token", "_secret", "_password", "_signature", "_api_key", "_signing_key")

_EVENT: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY_SECRET: Final = re.compile(r"(?i)([?&][a-z_-]*(?:token|key|secret|signature|password)=)[^&\s#]+")

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
    secrets: re.Pattern[str] | None = None
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


def configure(runtime: RuntimeSettings, secrets: Iterable[str] = (), *, stream: TextIO | None = None) -> None:
    """Set level and form for the whole process, mask `secrets` in every value, and take in the libraries' warnings.

    May be called again; the last call holds. `stream` None means stderr.
    """
    out = stream or sys.stderr
    pretty = runtime.log_format == "pretty" or (runtime.log_format == "auto" and _isatty(out))
    colours = pretty and _isatty(out) and not runtime.no_color
    known = sorted({s for s in secrets if len(s) >= SECRET_CHARS_MIN}, key=len, reverse=True)
    _sink.level = _NUMBERS[runtime.log_level]
    _sink.console = structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=28) if pretty else None
    _sink.priorities = not pretty and _is_journal(out, runtime.journal_stream)
    _sink.secrets = re.compile("|".join(map(re.escape, known))) if known else None
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


def _drop_content(_: object, __: str, fields: Fields) -> Fields:
    """Every field cleaned; an exception described, which needs no cleaning."""
    error = fields.pop("exc_info", None)
    dropped: list[str] = []
    clean = dict(_clean_items(fields, 0, dropped))
    if dropped:
        clean["dropped"] = sorted(set(dropped))
    if error is True:
        error = sys.exception()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        clean["exception"] = describe(error)
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
    _drop_content,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _render,
)


# --- what may be printed ------------------------------------------------------------------------------------------


def forbidden(name: str) -> bool:
    """Whether a field of this name is never logged."""
    plain = _HUMP.sub("_", name).lower().replace("-", "_")
    return plain in FORBIDDEN or plain.endswith(FORBIDDEN_ENDINGS)


def _clean_items(items: Mapping[Any, Any], depth: int, dropped: list[str]) -> Iterator[tuple[str, Any]]:
    for at, (key, value) in enumerate(items.items()):
        name = str(key)[:64]
        if at >= ITEMS_MAX and depth:
            return
        if forbidden(name):
            dropped.append(name)
        else:
            yield name, _clean(value, depth, dropped)


def _clean(value: object, depth: int, dropped: list[str]) -> object:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, BaseException):
        return _headline(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth < DEPTH_MAX and isinstance(value, Mapping):
        return dict(_clean_items(value, depth + 1, dropped))
    if depth < DEPTH_MAX and isinstance(value, list | tuple | set | frozenset) and not hasattr(value, "_fields"):
        return [_clean(item, depth + 1, dropped) for item in list(value)[:ITEMS_MAX]]
    return f"<{type(value).__name__}>"


def mask(text: str) -> str:
    """`text` without secrets: configured values, user and password of URLs, keys in queries; cut to a line's length."""
    text = _QUERY_SECRET.sub(rf"\1{MASK}", _USERINFO.sub(MASK, text))
    if _sink.secrets is not None:
        text = _sink.secrets.sub(MASK, text)
    if len(text) > VALUE_CHARS_MAX:
        text = f"{text[:VALUE_CHARS_MAX]}… ({len(text)} characters)"
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _headline(error: BaseException) -> str:
    """Type, and the words only where they are ours (free of content by contract) or the system's."""
    name = type(error).__name__
    if isinstance(error, QstreamdError):
        return mask(f"{name}: {error}")
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}: {os.strerror(error.errno) if error.errno > 0 else error.errno}"
    return name


def describe(error: BaseException, depth: int = 0) -> dict[str, Any]:
    """Type and frames of an exception and of its causes: no message of a stranger, no source line, no local value."""
    described: dict[str, Any] = {"type": _headline(error), "frames": list(_frames(error.__traceback__))[-FRAMES_MAX:]}
    if depth >= DEPTH_MAX:
        return described
    if isinstance(error, BaseExceptionGroup):
        described["errors"] = [describe(inner, depth + 1) for inner in error.exceptions[:ITEMS_MAX]]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        described["cause"] = describe(cause, depth + 1)
    return described


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        frame = traceback.tb_frame
        yield f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}:{traceback.tb_lineno}"
        traceback = traceback.tb_next


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
