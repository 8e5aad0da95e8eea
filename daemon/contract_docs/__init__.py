"""The published contract as files: pages, JSON Schemas, TypeScript, OpenAPI, AsyncAPI, the reducer of front ends.

All derived from the code: `python -m daemon export-contracts --write docs/` writes them and a test compares them with
what is committed, so a name that changes in the code can't stay unchanged in the documents. Only the command line, the
demo and tests call this package; it never reads the value of a setting.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from daemon.contract_docs import asyncapi, metrics_page, openapi, page, promise, reducer, schemas, typescript


def render() -> dict[PurePosixPath, str]:
    """Every generated file by its path below `docs/`; the same code always gives the same text."""
    body, event = schemas.worker_body(), schemas.worker_event()
    return {
        PurePosixPath("protocol.md"): page.protocol(),
        PurePosixPath("metrics.md"): metrics_page.metrics(),
        PurePosixPath("contract/WorkerBody.schema.json"): schemas.text(body),
        PurePosixPath("contract/WorkerEvent.schema.json"): schemas.text(event),
        PurePosixPath("contract/openapi.json"): schemas.text(openapi.document()),
        PurePosixPath("contract/asyncapi.json"): schemas.text(asyncapi.document()),
        PurePosixPath("contract/qstreamd.d.ts"): typescript.declarations([body, event]),
        PurePosixPath("contract/qstreamd.js"): reducer.module(),
        PurePosixPath("contract/promise.ts"): promise.module(),
    }
