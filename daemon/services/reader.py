"""Reads a services file (protocol 12) and finds every mistake in it before anything runs.

Never guesses: an unknown key, a wrong type or a name that leads nowhere is a line in `ConfigError` that says where it
stands, what it was and what is allowed. Called at start, by `check`, and on SIGHUP, where the caller keeps the book it
has when this one is refused.
"""

from __future__ import annotations

import errno
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, get_args

from pydantic import TypeAdapter

from daemon.config.types import server_url
from daemon.domain.errors import ConfigError
from daemon.domain.messages import SERVICE_PATTERN
from daemon.domain.model_io import Reasoning
from daemon.domain.queues import DEFAULT_QUEUES, QUEUE_PATTERN, Mode, QueueSpec, Tier
from daemon.services.catalog import (
    DIRECT,
    TEMPLATE_PATTERN,
    Model,
    Output,
    Service,
    ServiceCatalog,
    is_template_ref,
    nearest,
)
from daemon.services.price_tables import read_off_peak, read_prices
from daemon.services.table import Table

PROVIDERS: Final = ("deepseek", "openai", "gemini")
INPUTS: Final = ("text", "image")
TIERS: Final = tuple(Tier)
REASONING: Final[tuple[Reasoning, ...]] = get_args(Reasoning)
MODEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,127}$"
FILE_BYTES_MAX: Final = 1024 * 1024
ATTEMPTS_MAX: Final = 10  # as `maxAttempts` of a message
PARALLELISM_DEFAULT: Final = 5
GIVES_WAY_S_MAX: Final = 3600.0  # a wait has an end: QSTREAMD_GUARD_WAIT_MAX_S

_PROXY: Final = TypeAdapter(Annotated[str, server_url("http")])
_DEFAULT_FILE: Final = "services_default/services.toml"


def load(path: str | Path | None = None, *, deep: bool = True) -> ServiceCatalog:
    """The book of the file at `path`, or of the shipped default when it is None.

    Raises `ConfigError` with one line for each mistake. `deep=False` leaves templates and schemas unchecked and Jinja
    and jsonschema unimported: enough for the relay, which asks for names, tiers and queues only. May be repeated; reads
    the file anew each time. Schema files are looked for beside the services file.
    """
    place = Path(str(files("daemon") / _DEFAULT_FILE)) if path is None else Path(path)
    mistakes: list[str] = []
    reader = _Reader(place, _parse(place), mistakes, deep=deep)
    catalog = reader.catalog()
    if mistakes:
        raise ConfigError(mistakes)
    return catalog


def _parse(place: Path) -> dict[str, Any]:
    try:
        raw = _read(place)
        return tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigError([f"SERVICES_FILE: {place} can't be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{place.name}: is not UTF-8 (byte {error.start})"]) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError([f"{place.name}: is not TOML: {error}"]) from error


def _read(place: Path) -> bytes:
    """The whole file; `OSError` also for one that is too large or has no possible name."""
    if "\0" in str(place):
        raise OSError(errno.EINVAL, "its name holds a NUL character")
    with place.open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise OSError(errno.EFBIG, f"larger than {FILE_BYTES_MAX} bytes")
    return raw


class _Reader:
    """One reading of one file."""

    def __init__(self, place: Path, data: dict[str, Any], mistakes: list[str], *, deep: bool) -> None:
        self._place = place
        self._mistakes = mistakes
        self._deep = deep
        self._root = Table(place.name, "", data, mistakes)
        self._model_names: tuple[str, ...] = ()

    def catalog(self) -> ServiceCatalog:
        """What could be read; the mistakes are beside it."""
        models = {name: self._model(name, t) for name, t in self._root.tables("models", MODEL_PATTERN)}
        self._model_names = tuple(models)
        services = {name: self._service(name, t, models) for name, t in self._root.tables("services", SERVICE_PATTERN)}
        queues = {name: self._queue(name, t) for name, t in self._root.tables("queues", QUEUE_PATTERN)}
        self._root.close()
        for kind, found in (("models", models), ("services", services)):
            if not found:
                self._mistakes.append(f"{self._place.name}: has no [{kind}.*] table; at least one is needed")
        return ServiceCatalog(
            source=self._place.name,
            models=MappingProxyType(models),
            services=MappingProxyType(services),
            queues=MappingProxyType({**DEFAULT_QUEUES, **queues}),
        )

    def _model(self, name: str, t: Table) -> Model:
        model = Model(
            id=name,
            provider=t.choice("provider", PROVIDERS) or "",
            name=t.text("name") or "",
            takes_images="image" in (t.choices("input", INPUTS, needed=("text",)) or ()),
            concurrency=self._concurrency(t),
            requests_per_minute=t.integer("requests_per_minute", 1, 10**9),
            tokens_per_minute=t.integer("tokens_per_minute", 1, 10**12),
            prices=read_prices(t),
            off_peak=read_off_peak(t),
            proxy=self._proxy(t),
            reasoning=self._reasoning(t),
            sampling=t.flag("sampling", default=True),
        )
        t.close()
        return model

    def _reasoning(self, t: Table) -> Reasoning | None:
        word = t.choice("reasoning", REASONING, required=False)
        return next((known for known in REASONING if known == word), None)

    def _proxy(self, t: Table) -> str:
        """The model's way out. It may hold a password: a mistake does not quote it."""
        value = t.text("proxy", required=False) or ""
        if value in ("", DIRECT):
            return value
        try:
            _PROXY.validate_python(value)
        except ValueError:
            t.mistake(
                "proxy", f'is not allowed; allowed: http://host:port, with user:password@ or without, or "{DIRECT}"'
            )
        return value

    def _concurrency(self, t: Table) -> Mapping[Tier, int]:
        inner = t.table("concurrency")
        if inner is None:
            return MappingProxyType({})
        limits = {tier: inner.integer(tier, 1, 10**6) for tier in TIERS}
        inner.close()
        return MappingProxyType({tier: limit for tier, limit in limits.items() if limit is not None})

    def _service(self, name: str, t: Table, models: Mapping[str, Model]) -> Service:
        service = Service(
            id=name,
            title=t.text("title", required=False) or name,
            system=self._source(t, "system") or "",
            prompt=self._source(t, "prompt"),
            template=self._template(t),
            models=self._models(t),
            takes_images=False,
            output=self._output(t),
            schema=self._schema(t),
            max_output_tokens=t.integer("max_output_tokens", 1, 10**7),
            temperature=t.number("temperature", 0, 2),
            attempts=t.integer("attempts", 1, ATTEMPTS_MAX) or 3,
            **self._clocks(t),
        )
        declared = t.choices("input", INPUTS, needed=("text",), required=False)
        t.close()
        if (service.prompt is None) == (service.template is None):
            t.mistake("", "needs exactly one of prompt and template")
        if service.schema is not None and service.output != "json":
            t.mistake("schema", 'is only for output = "json"')
        return replace(service, takes_images=self._images(t, service, declared, models))

    def _models(self, t: Table) -> Mapping[Tier, tuple[str, ...]]:
        inner = t.table("models", required=True)
        if inner is None:
            return MappingProxyType({})
        chosen = {tier: inner.names(tier, self._model_names) for tier in TIERS}
        inner.close()
        if not any(chosen.values()):
            inner.mistake("", "names no model; give paid, free or both a list")
        return MappingProxyType({tier: names for tier, names in chosen.items() if names})

    def _images(
        self, t: Table, service: Service, declared: tuple[str, ...] | None, models: Mapping[str, Model]
    ) -> bool:
        """Whether the service takes images: as declared, else if all its models do."""
        used = {name: models[name] for names in service.models.values() for name in names if name in models}
        text_only = sorted(name for name, model in used.items() if not model.takes_images)
        if declared is None:
            return bool(used) and not text_only
        if "image" in declared and text_only:
            able = sorted(name for name, model in models.items() if model.takes_images)
            t.mistake(
                "models",
                f'{", ".join(text_only)} can\'t read images, but input has "image"; '
                f"models that can: {', '.join(able) or 'none'}",
            )
        return "image" in declared

    def _output(self, t: Table) -> Output:
        return "json" if t.choice("output", ("text", "json"), required=False) == "json" else "text"

    def _clocks(self, t: Table) -> dict[str, float]:
        """The three clocks; one that is not set never outlasts the total."""
        given = {key: t.number(key, 0, 86400, above=True) for key in ("first_token_s", "idle_s", "total_s")}
        total = given["total_s"] or 240.0
        for key in ("first_token_s", "idle_s"):
            value = given[key]
            if value is not None and value > total:
                t.mistake(key, f"= {value:g} is longer than total_s = {total:g}, so it would never run out")
        return {
            "first_token_s": given["first_token_s"] or min(60.0, total),
            "idle_s": given["idle_s"] or min(60.0, total),
            "total_s": total,
        }

    def _source(self, t: Table, key: str) -> str | None:
        source = t.text(key, required=False)
        if source is not None and self._deep:
            from daemon.services.prompts import BadTemplate, prompt  # Jinja: the relay does without

            try:
                prompt(source)
            except BadTemplate as error:
                t.mistake(key, f"is not a template: {error}")
        return source

    def _template(self, t: Table) -> str | None:
        ref = t.text("template", required=False)
        if ref is not None and not is_template_ref(ref):
            t.mistake("template", f"= {ref[:80]!r} is not allowed; allowed: name or name@version ({TEMPLATE_PATTERN})")
        return ref

    def _schema(self, t: Table) -> str | None:
        name = t.text("schema", required=False)
        if name is None or not self._deep:
            return None
        from daemon.services.schemas import BadSchema, compact, validator  # jsonschema: the relay does without

        place = self._place.parent / name
        try:
            schema = compact(_read(place))
            validator(schema)
        except OSError as error:
            there = sorted(p.name for p in self._place.parent.glob("*.json"))
            t.mistake("schema", f"= {name!r} can't be read: {error.strerror}{nearest(name, there)}")
        except BadSchema as error:
            t.mistake("schema", f"= {name!r} is not usable: {error}")
        else:
            return schema
        return None

    def _queue(self, name: str, t: Table) -> QueueSpec:
        """A further queue, or other numbers for one of the six, whose tier and mode are fixed."""
        default = DEFAULT_QUEUES.get(name)
        tier = t.choice("tier", TIERS, required=default is None)
        mode = t.choice("mode", tuple(Mode), required=default is None)
        parallelism = t.integer("parallelism", 1, 10_000)
        max_size = t.integer("max_size", 1, 10**9)
        gives_way_s = t.number("gives_way_s", 0, GIVES_WAY_S_MAX) or 0.0
        t.close()
        if default is None:
            slots = parallelism or PARALLELISM_DEFAULT
            return QueueSpec(
                name, Tier(tier or "free"), Mode(mode or "batch"), slots, max_size, gives_way_s=gives_way_s
            )
        for key, given, fixed in (("tier", tier, default.tier), ("mode", mode, default.mode)):
            if given is not None and given != fixed:
                t.mistake(key, f'= "{given}" is not allowed; {name} is a default queue and always "{fixed}"')
        slots = parallelism or default.parallelism
        return replace(default, parallelism=slots, max_size=max_size, gives_way_s=gives_way_s)
