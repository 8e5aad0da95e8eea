"""The Jinja2 environment that prompts run in: cut down to what prompts need, with bounds on time and size.

Templates are written by operators, variables by users. User text is only ever data: it is never parsed, and nothing a
variable holds can be called. The bounds stop a template that would otherwise stop the daemon, which serves many tasks
in one thread: loop rounds, sizes of values and CPU time are counted. What could run uncounted (macros, includes,
inheritance, filter blocks, `recursive`) does not exist here. Called by `daemon.services.prompts` only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import StrictUndefined, filters, nodes, pass_context, pass_environment
from jinja2.environment import Environment
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import missing
from jinja2.visitor import NodeTransformer

PROMPT_CHARS_MAX: Final = 4 * 1024 * 1024  # about a million tokens, what the longest contexts hold
ROUNDS_MAX: Final = 100_000  # of all loops of one rendering together
RANGE_MAX: Final = 10_000
INDENT_MAX: Final = 100
CPU_S_MAX: Final = 1.0  # a rendering takes some 50 us; CPU time, so that a busy host refuses nothing

BUDGET: Final = "render budget"  #: the variable that holds it; no template can spell a name with a space


class RenderFailed(ValueError):
    """A bound was passed or an expression could not be evaluated; the message holds no value of a variable."""


@dataclass(slots=True)
class Budget:
    """What one rendering may still use up."""

    chars: int
    rounds: int
    cpu_until_s: float

    @classmethod
    def full(cls) -> Budget:
        """For a rendering that begins now, in this thread."""
        return cls(PROMPT_CHARS_MAX, ROUNDS_MAX, time.thread_time() + CPU_S_MAX)

    def spend(self, *, chars: int = 0, rounds: int = 0) -> None:
        """Raises `RenderFailed` when nothing is left."""
        self.chars -= chars
        self.rounds -= rounds
        if self.chars < 0:
            raise RenderFailed(f"the prompt is longer than {PROMPT_CHARS_MAX} characters")
        if self.rounds < 0:
            raise RenderFailed(f"the loops run more than {ROUNDS_MAX} rounds")
        if time.thread_time() > self.cpu_until_s:
            raise RenderFailed(f"rendering takes more than {CPU_S_MAX} s")


# --- how values read --------------------------------------------------------------------------------------------


def _bounded(size: int) -> None:
    if size > PROMPT_CHARS_MAX:
        raise RenderFailed(f"a value is larger than {PROMPT_CHARS_MAX}")


def _text(budget: Budget, value: object) -> str:
    """Text as it is, null as nothing, everything else as JSON."""
    if isinstance(value, str | Undefined):
        return str(value)  # a missing value raises here and says its name
    if value is None:
        return ""
    if isinstance(value, Iterator) and not isinstance(value, LoopContext):
        value = list(value)
    return _json(budget, value)


def _json(budget: Budget, value: object, indent: int | None = None) -> str:
    # Piece by piece: a value that holds itself many times over is small in memory and endless as text.
    encoder = json.JSONEncoder(ensure_ascii=False, indent=indent, default=_unwritable)
    pieces, size = [], 0
    for piece in encoder.iterencode(value):
        pieces.append(piece)
        size += len(piece)
        _bounded(size)
        if len(pieces) % 256 == 0:
            budget.spend()
    return "".join(pieces)


def _unwritable(value: object) -> object:
    raise RenderFailed(f"a {type(value).__name__} can't be written into a prompt")


@pass_context
def _finalize(context: Context, value: object) -> str:
    """What `{{ }}` prints."""
    return _text(context.parent[BUDGET], value)


@pass_context
def _concat(context: Context, values: Iterable[object]) -> str:
    """What `~` does."""
    texts = [_text(context.parent[BUDGET], value) for value in values]
    _bounded(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _rounds(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    """What every `for` goes over."""
    budget: Budget = context.parent[BUDGET]
    for value in values:
        budget.spend(rounds=1)
        yield value


# --- filters and operators that could grow a value without bound -------------------------------------------------


@pass_context
def _join(context: Context, values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = map(filters.make_attrgetter(context.environment, attribute), values)
    texts = [_text(context.parent[BUDGET], value) for value in values]
    _bounded(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


@pass_context
def _string(context: Context, value: object) -> str:
    return _text(context.parent[BUDGET], value)


@pass_context
def _tojson(context: Context, value: object, indent: int | None = None) -> str:
    return _json(context.parent[BUDGET], value, None if indent is None else min(indent, 8))


def _replace(value: str, old: str, new: str, count: int = -1) -> str:
    _bounded(len(value) + value.count(old) * len(new))
    return value.replace(old, new, count)


def _indent(value: str, width: int = 4, first: bool = False, blank: bool = False) -> str:  # noqa: FBT001, FBT002 (Jinja's signature)
    if width > INDENT_MAX:
        raise RenderFailed(f"indent is wider than {INDENT_MAX}")
    _bounded(len(value) + (value.count("\n") + 1) * width)
    return filters.do_indent(value, width, first, blank)


def _round(value: float, precision: int = 0) -> float:
    return round(value, max(-15, min(precision, 15)))


@pass_environment
def _sum(environment: Environment, values: Iterable[Any], attribute: str | None = None) -> Any:
    return filters.do_sum(environment, values, attribute)  # no `start`: sums of lists grow quadratically


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > RANGE_MAX:
        raise RenderFailed(f"range is longer than {RANGE_MAX}")
    return numbers


def _times(left: Any, right: Any) -> Any:
    for value, count in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(count, int):
            _bounded(len(value) * max(count, 0))
    return _number(left * right)


def _plus(left: Any, right: Any) -> Any:
    if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _bounded(len(left) + len(right))
    return _number(left + right)


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise RenderFailed("formatting with % is not offered; join texts with ~")
    return left % right


def _power(*_: Any) -> Any:
    raise RenderFailed("** is not offered")


def _number(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 128:
        raise RenderFailed("a number is larger than 128 bits")
    return value


_Group: Final = filters._GroupTuple  # noqa: SLF001 (has no public name)

#: every filter that templates have
FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    **{
        name: filters.FILTERS[name]
        for name in (
            "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items",
            "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select",
            "selectattr",
            "sort", "title", "trim", "truncate", "unique", "upper", "wordcount",
        )
    },
    "indent": _indent, "join": _join, "replace": _replace, "round": _round, "string": _string, "sum": _sum,
    "tojson": _tojson,
}  # fmt: skip

_ATTRIBUTES: Final[tuple[tuple[type, frozenset[str]], ...]] = (
    (Mapping, frozenset({"get", "items", "keys", "values"})),
    (
        LoopContext,
        frozenset({"changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem",
                   "previtem", "revindex", "revindex0"}),
    ),
    (
        str,
        frozenset({"capitalize", "count", "endswith", "find", "isdigit", "lower", "lstrip", "removeprefix",
                   "removesuffix", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"}),
    ),
    (list, frozenset({"count", "index"})),
    (_Group, frozenset({"grouper", "list"})),
)  # fmt: skip

#: the statements there are; anything else is refused when a template is compiled
STATEMENTS: Final = (nodes.Output, nodes.For, nodes.If, nodes.With, nodes.Assign)


class Missing(StrictUndefined):
    """A value that is not there: using it raises, and the message is its bare name."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name = self._undefined_name
        shown = name[:64] if isinstance(name, str) else "an element"
        return shown if self._undefined_obj is missing else f"{shown} of an object"


class PromptEnvironment(SandboxedEnvironment):
    """Build it once; templates compiled by it may be rendered any number of times."""

    intercepted_binops = frozenset({"*", "+", "%", "**"})

    def __init__(self) -> None:
        # Not optimized: the optimizer would run expressions while compiling, without a budget.
        super().__init__(
            autoescape=False, undefined=Missing, optimized=False, cache_size=0, trim_blocks=True, lstrip_blocks=True,
            finalize=_finalize,
        )  # fmt: skip
        self.filters = {**FILTERS, "for rounds": _rounds, "for concat": _concat}
        self.globals = {"range": _range}
        self.binop_table = {**self.binop_table, "*": _times, "+": _plus, "%": _modulo, "**": _power}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`user.copy` is the user's key, as in any JSON, unless it is one of the four methods of a mapping."""
        if isinstance(obj, Mapping) and attribute not in _ATTRIBUTES[0][1]:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only what is listed, so that nothing of Python leaks in with a new release."""
        return any(isinstance(obj, kind) and attr in names for kind, names in _ATTRIBUTES)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is not listed either; its widths know no bound."""


class Bounding(NodeTransformer):
    """Rewrites a parsed template so that loops and `~` spend the budget."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 (the visitor's naming)
        """`for x in y` becomes `for x in counted(y)`."""
        self.generic_visit(node)
        assert isinstance(node.iter, nodes.Expr)  # jinja declares less than it parses
        node.iter = _applied("for rounds", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """`a ~ b` becomes `joined([a, b])`."""
        self.generic_visit(node)
        return _applied("for concat", nodes.List(node.nodes, lineno=node.lineno))


def _applied(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
