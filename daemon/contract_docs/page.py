"""The protocol page: the text of `protocol.md.jinja` with the tables of `tables` filled in."""

from __future__ import annotations

from importlib.resources import files

import jinja2

from daemon.contract_docs import schemas, tables
from daemon.domain import errors, messages


def protocol() -> str:
    """The whole page as Markdown."""
    source = (files("daemon.contract_docs") / "protocol.md.jinja").read_text("utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(source).render(
        messages=messages,
        errors=errors,
        tables=tables,
        body=schemas.worker_body(),
        event=schemas.worker_event(),
    )
