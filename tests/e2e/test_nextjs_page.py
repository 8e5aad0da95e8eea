"""The code of docs/nextjs.md compiles strictly and does what the page says, against a real Redis."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from redis.asyncio import Redis

from daemon.config import RedisSettings
from daemon.domain.errors import Code
from daemon.domain.events import Channel, EventDraft, Stage, Usage, done, error, progress, started, token_batch
from daemon.redis_client.connection import connect
from tests import front_ends, nodejs
from tests.upstash import upstash

pytestmark = pytest.mark.timeout(240)

HEAD: Final = {"v": 1, "taskId": "t1", "requestId": "r", "traceId": "t", "timestamp": 1.5}
KEY: Final = "task:t1:events"

#: asks the route for a task's events and prints the status and the frames; argv: after, "abort" to leave early
READER: Final = """
import { GET } from "./app/api/tasks/[taskId]/events/route";
const [after, leave] = process.argv.slice(2);
const gone = new AbortController();
const headers: Record<string, string> = after ? { "last-event-id": after } : {};
const request = new Request("http://next/api/tasks/t1/events", { headers, signal: gone.signal });
const response = await GET(request, { params: Promise.resolve({ taskId: "t1" }) });
let text = "";
const decoder = new TextDecoder();
for await (const bytes of (response.body ?? []) as AsyncIterable<Uint8Array>) {
  text += decoder.decode(bytes, { stream: true });
  if (leave && text.includes("id:")) gone.abort();
}
console.log(JSON.stringify({ status: response.status, type: response.headers.get("content-type"), text }));
"""
#: shows a task in a page and prints what was on show, each time it changed
VIEWER: Final = """
import { asBrowser } from "./browser";
import { EventSource } from "eventsource";
asBrowser();
Object.assign(globalThis, { EventSource, IS_REACT_ACT_ENVIRONMENT: false });
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useTask } = await import("./hooks/use-task");
const [base] = process.argv.slice(2);
let clicked = false;
function Page() {
  const { view, connection, cancel } = useTask("t1", base);
  console.log(JSON.stringify({ ...view, connection }));
  if (view.text.includes("stop me") && !clicked) { clicked = true; cancel().then(() => console.error("cancelled")); }
  if (view.ended || connection === "lost") setTimeout(() => root.unmount());
  return createElement("p", null, view.text);
}
const root = createRoot(document.body.appendChild(document.createElement("div")));
root.render(createElement(Page));
"""
BROWSER: Final = """
import { Window } from "happy-dom";
/** As much of a browser as React needs; the network stays Node's. */
export function asBrowser(): void {
  const window = new Window();
  const { document, navigator, HTMLElement } = window;
  Object.assign(globalThis, { window, document, navigator, HTMLElement });
}
"""


@pytest.fixture(scope="module")
def app(nextjs: Path) -> Path:
    """The page's files as a small Next.js-like project, and scripts that use them."""
    (nextjs / "browser.ts").write_text(BROWSER)
    front_ends.bundled(nextjs, "reader-rest", READER)
    front_ends.bundled(nextjs, "reader-tcp", READER, "--alias:@/lib/stream=./lib/stream-tcp.ts")
    front_ends.bundled(nextjs, "viewer", VIEWER)
    return nextjs


async def node(app: Path, script: str, *arguments: object, **env: str) -> str:
    found = await asyncio.to_thread(nodejs.run, app, script, *arguments, UPSTASH_DISABLE_TELEMETRY="1", **env)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def events() -> list[dict[str, Any]]:
    """A task whose first attempt fails in mid-stream and whose second one ends well."""
    text = "Good answer 好"
    sha = hashlib.sha256(text.encode()).hexdigest()
    drafts: list[tuple[int, EventDraft]] = [
        (1, started("m1")),
        (1, token_batch("Wrong ", Channel.TEXT)),
        (1, error(Stage.EXECUTE, Code.LLM_ERROR, "again", retryable=True, retry_at=2.0)),
        (2, started("m1")),
        (2, progress(Stage.EXECUTE, "thinking")),
        (2, token_batch("hm", Channel.REASONING)),
        (2, token_batch(text[:5], Channel.TEXT)),
        (2, token_batch(text[5:], Channel.TEXT)),
        (2, done("t1", usage=Usage(), model_id="m1", content_sha256=sha, result=None)),
    ]  # fmt: skip
    first = {**HEAD, "type": "queued", "attempt": 0, "seq": 0, "queueId": "q_paid_stream"}
    return [first, *(event(attempt, draft) for attempt, draft in drafts)]


def event(attempt: int, draft: EventDraft) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(draft.fields)
    return {**HEAD, "type": draft.type.value, "attempt": attempt, "seq": 1, **fields}


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[Redis]:
    async with connect(redis_settings) as found:
        yield found


@pytest.fixture(params=["rest", "tcp"])
async def way(
    request: pytest.FixtureRequest, client: Redis, redis_url: str
) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """The script that reads the route in one of its two ways, and what it needs."""
    if request.param == "tcp":
        yield "reader-tcp.mjs", {"REDIS_URL": redis_url, "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:9"}
    else:
        async with upstash(client) as url:
            yield "reader-rest.mjs", {"UPSTASH_REDIS_REST_URL": url, "UPSTASH_REDIS_REST_TOKEN": "t"}


async def write(client: Redis, *some: dict[str, Any]) -> list[str]:
    """The events in Redis; their stream ids."""
    ids = [await client.xadd(KEY, {"type": e["type"], "data": json.dumps(e)}) for e in some]
    return [str(entry_id, "utf-8") for entry_id in ids]  # type: ignore[arg-type]  # redis-py allows for both


def test_the_page_shows_its_files_as_they_are() -> None:
    """Every snippet, none by hand. Run `python -m tests.front_ends` when this fails."""
    assert front_ends.differing("nextjs.md") == []


# --- the route --------------------------------------------------------------------------------------------------------


async def test_a_viewer_gets_every_event_with_its_id_and_the_end(
    app: Path, client: Redis, way: tuple[str, dict[str, str]]
) -> None:
    """A comment first, then each stored event under its stream id, and the end after the terminal one."""
    written = await write(client, *events())
    answer = json.loads(await node(app, way[0], **way[1]))
    assert (answer["status"], answer["type"]) == (200, "text/event-stream; charset=utf-8")
    assert answer["text"].startswith(": ok\n\n")
    assert re.findall(r"^id: (.*)$", answer["text"], re.MULTILINE) == written
    got = [json.loads(line) for line in re.findall(r"^data: (.*)$", answer["text"], re.MULTILINE)]
    assert got == events()


async def test_a_viewer_resumes_after_its_cursor_until_the_end(
    app: Path, client: Redis, way: tuple[str, dict[str, str]]
) -> None:
    """`Last-Event-ID` is exclusive: nothing twice, nothing left out; 204 for whoever has seen the end."""
    written = await write(client, *events())
    answer = json.loads(await node(app, way[0], written[4], **way[1]))
    assert re.findall(r"^id: (.*)$", answer["text"], re.MULTILINE) == written[5:]
    assert json.loads(await node(app, way[0], written[-1], **way[1]))["status"] == 204


async def test_a_viewer_that_leaves_frees_its_connection(
    app: Path, client: Redis, way: tuple[str, dict[str, str]]
) -> None:
    """The read ends at once with its viewer; the process would hang on it otherwise."""
    await write(client, events()[0])
    answer = json.loads(await node(app, way[0], "", "abort", **way[1]))
    assert answer["status"] == 200 and "queued" in answer["text"]


# --- the hook ---------------------------------------------------------------------------------------------------------


Frame = tuple[int, dict[str, Any]] | None  #: a stream id and an event; None waits for a click on "cancel"


class Line:
    """A server of events that answers and breaks off as it is told, and takes note of what it was asked."""

    def __init__(self, *answers: int | list[Frame]) -> None:
        self._answers = list(answers)
        self._cancelled = asyncio.Event()
        self.asked: list[str] = []

    async def events(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.headers.get("Last-Event-ID") or f"?{request.query['after']}")
        answer = self._answers.pop(0)
        if isinstance(answer, int):
            return web.Response(status=answer)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"retry: 10\n\n")
        for frame in answer:
            if frame is None:
                await self._cancelled.wait()
                continue
            number, one = frame
            await response.write(f"id: {number}-0\nevent: {one['type']}\ndata: {json.dumps(one)}\n\n".encode())
        return response

    async def cancel(self, _: web.Request) -> web.Response:
        self._cancelled.set()
        return web.json_response({"state": "cancelled"})

    async def shown(self, app: Path) -> list[dict[str, Any]]:
        """What a page shows of it, from first to last."""
        server = web.Application()
        server.add_routes([web.get("/events", self.events), web.post("/cancel", self.cancel)])
        runner = web.AppRunner(server)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            out = await node(app, "viewer.mjs", f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()
        return [json.loads(text) for text in out.splitlines()]


async def test_the_hook_comes_back_from_whatever_happens_to_its_line(app: Path) -> None:
    """Breaks in two frames, repeats, an answer after which EventSource gives up: the text is whole and verified."""
    some = list(enumerate(events(), 1))
    line = Line([*some[:3]], 502, [*some[2:7]], [*some[6:]])
    shown = await line.shown(app)
    assert line.asked == ["?0-0", "3-0", "?3-0", "7-0"]
    last = shown[-1]
    assert (last["state"], last["text"], last["reasoning"], last["verified"]) == ("done", "Good answer 好", "hm", True)
    assert {"open", "broken"} <= {view["connection"] for view in shown}
    texts = [view["text"] for view in shown]
    assert "Wrong " in texts and "Wrong Good " not in texts


async def test_the_hook_cancels(app: Path) -> None:
    """The click goes to the server; that it worked is told by the stream."""
    begun = [events()[0], event(1, started("m1")), event(1, token_batch("stop me", Channel.TEXT))]
    end = event(1, error(Stage.EXECUTE, Code.CANCELLED, "The task was cancelled.", retryable=False))
    shown = await Line([*enumerate(begun, 1), None, (9, end)]).shown(app)
    assert (shown[-1]["state"], shown[-1]["code"], shown[-1]["text"]) == ("cancelled", "CANCELLED", "stop me")


# --- events of before -------------------------------------------------------------------------------------------------

OLD: Final = """
import { modern } from "./lib/old-events";
import { INITIAL_VIEW, reduce } from "./lib/qstreamd";
const views = JSON.parse(process.argv[2]!).map((e: any) => modern(e)).filter(Boolean).reduce(reduce, INITIAL_VIEW);
console.log(JSON.stringify(views));
"""


@pytest.mark.parametrize("kind", ["token", "progress", "today"])
async def test_old_events_show_the_same(app: Path, kind: str) -> None:
    """The names of before and today's names, in one page, while both workers write."""
    front_ends.bundled(app, "old", OLD)
    head = {"taskId": "t1", "requestId": "r_1", "traceId": "tr_1", "timestamp": 1730000000}
    delta = {"token": {"type": "token", "token": "Hello"}, "progress": {"type": "progress", "delta": "Hello"}}
    status = {"type": "status", "status": "queued", **head}
    begun = [status, {**head, "type": "started", "stage": "execute"}, {**head, **delta.get(kind, delta["token"])}]
    if kind == "today":
        begun = [events()[0], event(1, started("m1")), event(1, token_batch("Hello", Channel.TEXT))]
    good = await node(app, "old.mjs", json.dumps([*begun, {**head, "type": "done", "resultRef": "db:result:t1"}]))
    view = json.loads(good)
    assert (view["state"], view["text"], view["resultRef"]) == ("done", "Hello", "db:result:t1")
    failed = {
        **head,
        "type": "error",
        "code": "LLM_TIMEOUT",
        "message": "模型响应超时",
        "retryable": False,
        "attempt": 3,
    }
    view = json.loads(await node(app, "old.mjs", json.dumps([*begun, failed])))
    assert (view["state"], view["code"], view["attempt"]) == ("failed", "LLM_TIMEOUT", 3)
