"""The committed documents are what the code says today, and TypeScript agrees that they are TypeScript."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import pytest
from jsonschema import Draft7Validator

from daemon.contract_docs import render
from tests import nodejs

DOCS: Final = Path(__file__).parents[2] / "docs"

CONSUMER: Final = """
import type { ScheduledWorkerBody, TerminalEvent, WorkerBody, WorkerEvent } from "./qstreamd";

export const body: WorkerBody = {
  taskId: "t1", userId: "u1", tier: "paid", jobId: null,
  images: [{ data: "aGk=", mimeType: "image/png" }, { fileId: "f_1" }, { fileKey: "images/a.jpg" }],
};
export const nightly: ScheduledWorkerBody = { userId: "u1", serviceId: "digest" };

export function text(event: WorkerEvent): string {
  switch (event.type) {
    case "queued": return `${event.queueId} ${event.position ?? "?"}`;
    case "started": return event.modelId;
    case "progress": return event.reason ?? event.message;
    case "token_batch": return event.delta;
    case "done": return event.resultRef + (event.usage.costUsd ?? 0).toFixed(4);
    case "error": return event.code === "LLM_TIMEOUT" ? "slow" : event.message;
    default: { const never: never = event; return never; }
  }
}
export const terminal = (event: WorkerEvent): event is TerminalEvent =>
  event.type === "done" || (event.type === "error" && !event.retryable);

// @ts-expect-error an owner is required
export const orphan: WorkerBody = { taskId: "t1" };
// @ts-expect-error one form an image
export const both: WorkerBody = { taskId: "t1", userId: "u1", images: [{ mimeType: "image/png" }] };
// @ts-expect-error a misspelt field
export const typo: WorkerBody = { taskId: "t1", userId: "u1", serviceID: "x" };
"""


def test_the_committed_documents_are_what_the_code_says() -> None:
    """Run `python -m daemon export-contracts --write docs/` when this fails."""
    stale = [str(path) for path, text in render().items() if (DOCS / path).read_text("utf-8") != text]
    assert stale == []


@pytest.mark.timeout(180)
def test_the_types_compile_and_catch_what_they_should(tmp_path: Path) -> None:
    """A strict reader handles all six events, and a wrong message does not compile."""
    tsc = nodejs.installed("typescript", [nodejs.TYPESCRIPT]) / "node_modules" / "typescript" / "bin" / "tsc"
    shutil.copy(DOCS / "contract" / "qstreamd.d.ts", tmp_path)
    (tmp_path / "consumer.ts").write_text(CONSUMER)
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
    found = nodejs.run(tmp_path, tsc, *options, "consumer.ts")
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.timeout(180)
def test_the_asyncapi_description_fits_the_specification() -> None:
    """Judged by the schema that the AsyncAPI project publishes for version 3."""
    specs = nodejs.installed("asyncapi", ["@asyncapi/specs@6.11.1"]) / "node_modules" / "@asyncapi" / "specs"
    official = json.loads((specs / "schemas" / "3.0.0.json").read_text("utf-8"))
    document = json.loads((DOCS / "contract" / "asyncapi.json").read_text("utf-8"))
    assert [error.message[:300] for error in Draft7Validator(official).iter_errors(document)] == []
