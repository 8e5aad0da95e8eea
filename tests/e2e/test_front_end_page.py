"""The code of docs/front-end.md compiles strictly and does what the page says, against a real Redis."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import redis

from daemon.contracts import Channel, EventDraft, Stage, Usage, done, error, progress, started, token_batch
from daemon.errors import Code
from tests import nodejs

pytestmark = pytest.mark.timeout(180)

DOCS: Final = Path(__file__).parents[2] / "docs"
PACKAGES: Final = (
    nodejs.TYPESCRIPT, "@types/node@20.19.43", "ioredis@5.11.1", "@upstash/qstash@2.12.0", "@upstash/redis@1.39.0",
)  # fmt: skip
HEAD: Final = {"v": 1, "taskId": "t1", "requestId": "r", "traceId": "t", "timestamp": 1.5}

#: asks the route for a task's events and prints the status and the frames; argv: after, "abort" to leave early
READER: Final = """
import { GET } from "./app/api/tasks/[taskId]/events/route.js";
const [after, leave] = process.argv.slice(2);
const gone = new AbortController();
const headers = after ? { "last-event-id": after } : {};
const request = new Request("http://next/api/tasks/t1/events", { headers, signal: gone.signal });
const response = await GET(request, { params: Promise.resolve({ taskId: "t1" }) });
let text = "";
const decoder = new TextDecoder();
for await (const bytes of response.body ?? []) {
  text += decoder.decode(bytes, { stream: true });
  if (leave && text.includes("id:")) gone.abort();
}
console.log(JSON.stringify({ status: response.status, type: response.headers.get("content-type"), text }));
"""
FOLDER: Final = """
import { initial, reduce } from "./lib/view.js";
const events = JSON.parse(process.argv[2]);
console.log(JSON.stringify(events.reduce(reduce, initial)));
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, compiled as a small Next.js-like project."""
    packages = nodejs.installed("front-end", PACKAGES)
    root = tmp_path_factory.mktemp("app")
    blocks = re.findall(r"```ts\n// file: (\S+)\n(.*?)```", (DOCS / "front-end.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for name, code in [*blocks, ("lib/auth.ts", "export const mayRead = async (..._: unknown[]) => true;\n")]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(code)
    shutil.copy(DOCS / "contract" / "qstreamd.d.ts", root / "lib")
    options = {
        "strict": True, "noUncheckedIndexedAccess": True, "target": "es2022", "module": "commonjs",
        "esModuleInterop": True, "lib": ["es2023", "dom", "dom.iterable", "dom.asynciterable"], "types": ["node"],
        "rootDir": ".", "outDir": "out", "paths": {"@/*": ["./*"]}, "skipLibCheck": True,
    }  # fmt: skip
    (root / "tsconfig.json").write_text(json.dumps({"compilerOptions": options}))
    (root / "node_modules").symlink_to(packages / "node_modules")
    node(root, [root / "node_modules/typescript/bin/tsc", "-p", "."])
    route = root / "out/app/api/tasks/[taskId]/events/route.js"
    route.write_text(route.read_text().replace('"@/lib/auth"', '"../../../../../lib/auth"'))  # as a bundler would
    (root / "out/package.json").write_text('{"type": "commonjs"}')
    for name, code in (("reader.mjs", READER), ("folder.mjs", FOLDER)):
        (root / "out" / name).write_text(code)
    return root / "out"


def node(directory: Path, arguments: Sequence[object], **env: str) -> str:
    found = nodejs.run(directory, *arguments, **env)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def events() -> list[dict[str, Any]]:
    """A task whose first attempt fails in mid-stream and whose second one ends well."""
    drafts: list[tuple[int, EventDraft]] = [
        (1, started("m1")),
        (1, token_batch("Wrong ", Channel.TEXT)),
        (1, error(Stage.EXECUTE, Code.LLM_ERROR, "again", retryable=True, retry_at=2.0)),
        (2, started("m1")),
        (2, progress(Stage.EXECUTE, "thinking")),
        (2, token_batch("hm", Channel.REASONING)),
        (2, token_batch("Good ", Channel.TEXT)),
        (2, token_batch("answer 好", Channel.TEXT)),
        (2, done(7, usage=Usage(), model_id="m1", content_sha256="0" * 64, result=None)),
    ]
    first = {**HEAD, "type": "queued", "attempt": 0, "seq": 0, "queueId": "q_paid_stream"}
    return [first, *({**HEAD, "type": d.type.value, "attempt": a, "seq": 1, **_plain(d)} for a, d in drafts)]


def _plain(draft: EventDraft) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(draft.fields)
    return fields


@pytest.fixture
def written(redis_url: str) -> list[str]:
    """The events in Redis; their stream ids."""
    with redis.Redis.from_url(redis_url) as client:
        return [
            client.xadd("task:t1:events", {"type": e["type"], "data": json.dumps(e)}).decode() for e in events()
        ]  # fmt: skip


def test_a_viewer_gets_every_event_with_its_id_and_the_end(app: Path, written: list[str], redis_url: str) -> None:
    """A comment first, then each stored event under its stream id, and the end after the terminal one."""
    answer = json.loads(node(app, ["reader.mjs"], REDIS_URL=redis_url))
    assert (answer["status"], answer["type"]) == (200, "text/event-stream; charset=utf-8")
    assert answer["text"].startswith(": ok\n\n")
    assert re.findall(r"^id: (.*)$", answer["text"], re.MULTILINE) == written
    got = [json.loads(line) for line in re.findall(r"^data: (.*)$", answer["text"], re.MULTILINE)]
    assert got == events()


def test_a_viewer_resumes_after_its_cursor(app: Path, written: list[str], redis_url: str) -> None:
    """`Last-Event-ID` is exclusive: nothing twice, nothing left out."""
    answer = json.loads(node(app, ["reader.mjs", written[4]], REDIS_URL=redis_url))
    assert re.findall(r"^id: (.*)$", answer["text"], re.MULTILINE) == written[5:]


def test_a_browser_that_has_seen_the_end_is_told_not_to_come_back(
    app: Path, written: list[str], redis_url: str
) -> None:
    """204 stops EventSource, which otherwise reconnects for ever after a clean close."""
    assert json.loads(node(app, ["reader.mjs", written[-1]], REDIS_URL=redis_url))["status"] == 204


def test_a_viewer_that_leaves_frees_its_connection(app: Path, redis_url: str) -> None:
    """The blocked read ends at once with its viewer; the process would hang on it otherwise."""
    with redis.Redis.from_url(redis_url) as client:
        client.xadd("task:t1:events", {"type": "queued", "data": json.dumps(events()[0])})
    answer = json.loads(node(app, ["reader.mjs", "", "abort"], REDIS_URL=redis_url))
    assert answer["status"] == 200 and "queued" in answer["text"]


def test_the_view_drops_the_text_of_a_failed_attempt(app: Path) -> None:
    """What the user reads at the end is the answer of the last attempt alone."""
    view = json.loads(node(app, ["folder.mjs", json.dumps(events())]))
    assert view == {
        "state": "done", "attempt": 2, "text": "Good answer 好", "reasoning": "hm", "resultRef": "db:result:7",
    }  # fmt: skip
