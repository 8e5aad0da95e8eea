"""The OpenAPI description is valid, and names what the code serves: every route, every code."""

from __future__ import annotations

import re

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from daemon.contract_docs import openapi, shapes
from daemon.contract_docs.routes import ROUTES
from daemon.domain.errors import Code
from daemon.relay.ingest import route_of
from tests.rules.tree import files

#: where a route is written: aiohttp's definitions, and the router's methods
SERVED = re.compile(r'(?:web\.|router\.add_)(get|post)\(\s*r?"(/[^"]*)"')


def test_it_is_a_valid_description() -> None:
    """Checked by the reference validator, references and schemas included."""
    validate(openapi.document())


def test_it_names_every_route_that_is_served_and_no_other() -> None:
    """A route that is added to the code is described here, or this fails."""
    code = "\n".join(
        path.read_text("utf-8")
        for folder in ("relay", "gateway", "worker", "admin")
        for path in files(f"daemon/{folder}")
        if path.name != "recorder.py"  # `try` puts it between itself and a provider: no door of ours
    )
    served = set(SERVED.findall(code)) - {("post", r"/{path:[\s\S]*}")}
    described = {(route.method, route.path) for route in ROUTES}
    of_paths = {(m, p) for m, p in described - served if route_of(re.sub(r"\{\w+\}", "q_paid_stream", p))}
    assert len(of_paths) == 6  # the relay's task routes are one pattern
    assert served == described - of_paths


def test_each_operation_has_a_name_of_its_own() -> None:
    """Generators of clients make a method of each."""
    names = [
        operation["operationId"]
        for path in openapi.document()["paths"].values()
        for method, operation in path.items()
        if method != "servers"
    ]
    assert len(names) == len(set(names)) == len(ROUTES)


def test_every_shape_is_a_schema() -> None:
    """Of the dialect that the description names."""
    for schema in shapes.everything().values():
        Draft202012Validator.check_schema(schema)


def test_every_code_that_an_answer_may_have_is_listed() -> None:
    """`HTTP_CODES` beside the public error codes: each one stands in the code that answers, and the other way round."""
    code = "\n".join(
        path.read_text("utf-8") for folder in ("relay", "gateway", "admin") for path in files(f"daemon/{folder}")
    )
    written = set(re.findall(r'(?:Refused\(\d+, |_refusal\(\d+, |"code": )"([A-Z_]+)"', code))
    written |= {"NOT_FOUND", "METHOD_NOT_ALLOWED", "TOO_LARGE", "BAD_REQUEST"}
    assert written - {*Code} == set(shapes.HTTP_CODES)
