"""Prompt templates: compiled once for each source, rendered with variables, and clear about what is missing.

Called by the services file's reader, which refuses a bad source at start, and by `pipeline.model_request`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from jinja2 import Template, TemplateSyntaxError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables

from daemon.services.catalog import nearest
from daemon.services.sandbox import BUDGET, STATEMENTS, Bounding, Budget, PromptEnvironment, RenderFailed

SOURCE_CHARS_MAX: Final = 256 * 1024

#: what an expression over JSON can raise beside Jinja's own errors
_EXPRESSION_ERRORS: Final = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


class BadTemplate(ValueError):
    """The source is not a template we render; the message names the line and what is wrong."""


class MissingVariables(ValueError):
    """Rendering needs variables that were not given: `names`, sorted."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"missing variables: {', '.join(names)}")
        self.names = names


class Prompt:
    """A compiled source. `required`: the variables it can't do without; `optional`: those it asks for or defaults."""

    def __init__(self, template: Template, required: frozenset[str], optional: frozenset[str]) -> None:
        self._template = template
        self.required = required
        self.optional = optional

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Variables are data: what they hold is never rendered, and null reads as nothing.

        Raises `MissingVariables` with all of them, or `RenderFailed`. Bounded in size and CPU time; may be repeated.
        """
        budget = Budget.full()
        pieces = []
        try:
            for piece in self._template.generate({**variables, BUDGET: budget}):
                budget.spend(chars=len(piece))
                pieces.append(piece)
        except UndefinedError as error:
            raise MissingVariables(sorted(self.required - variables.keys()) or [str(error.message)]) from None
        except SecurityError:
            raise RenderFailed("an attribute or method that templates may not use") from None
        except RenderFailed:
            raise
        except _EXPRESSION_ERRORS as error:
            # The foreign text may quote a value: only its type is told.
            raise RenderFailed(f"an expression failed with {type(error).__name__}") from None
        return "".join(pieces)


@lru_cache(maxsize=1)
def _environment() -> PromptEnvironment:
    return PromptEnvironment()


@lru_cache(maxsize=512)
def prompt(source: str) -> Prompt:
    """The compiled template; the same source gives the same object. Raises `BadTemplate`."""
    if len(source) > SOURCE_CHARS_MAX:
        raise BadTemplate(f"longer than {SOURCE_CHARS_MAX} characters")
    environment = _environment()
    try:
        tree = environment.parse(source)
        _check(environment, tree)
        names = frozenset(find_undeclared_variables(tree)) - environment.globals.keys()
        optional = names & _guarded(tree)
        template = environment.from_string(Bounding().visit(tree).set_environment(environment))
    except TemplateSyntaxError as error:
        raise BadTemplate(f"line {error.lineno}: {error.message}") from error
    except (RecursionError, SyntaxError) as error:  # Python's own limits on nesting
        raise BadTemplate("nested too deeply") from error
    return Prompt(template, names - optional, optional)


def _check(environment: PromptEnvironment, tree: nodes.Template) -> None:
    for statement in tree.find_all(nodes.Stmt):
        if not isinstance(statement, STATEMENTS) or (isinstance(statement, nodes.For) and statement.recursive):
            kind = type(statement).__name__.lower()
            raise BadTemplate(f"line {statement.lineno}: {kind!r} is not offered; allowed: if, for, set, with")
    for use in tree.find_all((nodes.Filter, nodes.Test)):
        known = environment.filters if isinstance(use, nodes.Filter) else environment.tests
        if use.name not in known:
            kind = type(use).__name__.lower()
            allowed = ", ".join(sorted(name for name in known if name[0].isalpha() and " " not in name))
            raise BadTemplate(
                f"line {use.lineno}: no {kind} {use.name!r}{nearest(use.name, known)}; allowed: {allowed}"
            )


def _guarded(tree: nodes.Template) -> frozenset[str]:
    """Names with a `default` or an `is defined` somewhere: the template does without them."""
    return frozenset(
        use.node.name
        for use in tree.find_all((nodes.Filter, nodes.Test))
        if use.name in ("d", "default", "defined", "undefined") and isinstance(use.node, nodes.Name)
    )
