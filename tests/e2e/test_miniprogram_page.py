"""The code of docs/miniprogram.md follows a task at a real gateway, in a stand-in for WeChat's network functions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from tests import front_ends, nodejs
from tests.e2e.gateway_world import VARIABLES, World, talkative, world
from tests.e2e.test_gateway_eventsource import breaking_line

pytestmark = pytest.mark.timeout(240)

#: `wx` as far as the page uses it, with the limits of devices: 60 s for a request, chunks that end anywhere
WX: Final = """
import http from "node:http";
import { WebSocket } from "ws";

const listeners = new Set();
function request({ url, method = "GET", header = {}, enableChunked, responseType, timeout = 60000, success, fail }) {
  const parts = [];
  let onChunk;
  let over = false;
  const end = (call, value) => { if (!over) { over = true; call?.(value); } };
  const sent = http.request(url, { method, headers: header, timeout: Math.min(timeout, 60000) }, (answer) => {
    answer.on("data", (part) => {
      if (!enableChunked) return parts.push(part);
      for (let at = 0; at < part.length; at += 7) {
        const piece = part.subarray(at, at + 7);
        onChunk?.({ data: piece.buffer.slice(piece.byteOffset, piece.byteOffset + piece.length) });
      }
    });
    answer.on("end", () => {
      const text = Buffer.concat(parts).toString();
      end(success, { statusCode: answer.statusCode, data: responseType ? text : JSON.parse(text || "null") });
    });
    answer.on("error", (error) => end(fail, { errMsg: `request:fail ${error.message}` }));
  });
  sent.on("error", (error) => end(fail, { errMsg: `request:fail ${error.message}` }));
  sent.end();
  return {
    abort: () => { sent.destroy(); end(fail, { errMsg: "request:fail abort" }); },
    onChunkReceived: (listener) => { onChunk = listener; },
  };
}
function connectSocket({ url, header, fail }) {
  const socket = new WebSocket(url, { headers: header });
  return {
    onMessage: (listener) => socket.on("message", (data) => listener({ data: data.toString() })),
    onError: (listener) => socket.on("error", (error) => listener({ errMsg: error.message })),
    onClose: (listener) => socket.on("close", (code) => listener({ code })),
    close: ({ code }) => (socket.readyState ? socket.close(code) : socket.terminate()),
  };
}
globalThis.wx = {
  request, connectSocket,
  onAppShow: (listener) => listeners.add(listener),
  offAppShow: (listener) => listeners.delete(listener),
  canIUse: (name) => name === "RequestTask.onChunkReceived" && process.env.NEW === "1",
  getStorageSync: () => "session-1",
};
export const show = () => listeners.forEach((listener) => listener());
export const watching = () => listeners.size;
"""
FOLLOW: Final = """
import { show, watching } from "./wx.js";
import { chunked } from "./lib/chunked.js";
import { followTask } from "./lib/follow.js";
import { poll } from "./lib/poll.js";
import { socket } from "./lib/socket.js";
const [way, url, token, backgrounded] = process.argv.slice(2);
let asked = 0, views = 0;
// the first token is one that has run out
const connect = async () => ({ url, token: asked++ ? token : "old" });
followTask(connect, { poll, chunked, socket }[way], (view, lost) => {
  views += 1;
  if (backgrounded && view.text && views % 5 === 0) show();
  if (view.ended || lost) console.log(JSON.stringify({ ...view, lost, asked, views, watching: watching() }));
});
"""
#: a connection that tells its end twice, the later pause first; then one that brings the end
TWICE: Final = """
import "./wx.js";
import { followTask } from "./lib/follow.js";
const pauses = [0.9, 0.1];
Math.random = () => pauses.shift() ?? 0;
let opened = 0;
const way = (address, after, take, over) => {
  opened += 1;
  if (opened === 1) { over("an error"); over("a close"); }
  else take({ type: "error", attempt: 0, code: "EXPIRED", message: "", retryable: false }, "1-0");
  return () => {};
};
followTask(async () => ({}), way, (view) => { if (view.ended) setTimeout(() => console.log(opened), 700); });
"""
PAGE: Final = """
import "./wx.js";
globalThis.Page = (page) => {
  page.options = { taskId: process.argv[2] };
  page.setData = (data) => {
    Object.assign(page.data, data);
    if (page.data.view.text && !page.asked) { page.asked = true; page.cancel(); }
    if (page.data.view.ended) console.log(JSON.stringify(page.data));
  };
  setTimeout(() => page.onLoad(page.options));
};
"""


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and scripts that use them."""
    root = front_ends.miniprogram(tmp_path_factory.mktemp("mini"))
    for name, text in (("wx.js", WX), ("follow.js", FOLLOW)):
        (root / name).write_text(text)
    return root


@pytest.fixture
async def front(redis_url: str, postgres_url: str) -> AsyncIterator[World]:
    async with world(
        redis_url, postgres_url, models={"tokens_per_s": 100.0, "words": 150, "answer": talkative}
    ) as found:
        yield found


async def followed(mini: Path, way: str, url: str, task: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """What was on show at the end."""
    address = f"{url}/api/tasks/{task['taskId']}"
    found = await asyncio.to_thread(nodejs.run, mini, "follow.js", way, address, task["token"], *more)
    assert found.returncode == 0, found.stderr
    shown: dict[str, Any] = json.loads(found.stdout)
    return shown


def test_the_page_shows_its_files_as_they_are() -> None:
    """Every snippet, none by hand. Run `python -m tests.front_ends` when this fails."""
    assert front_ends.differing("miniprogram.md") == []


def test_an_end_that_is_told_twice_is_one_end(mini: Path) -> None:
    """One connection follows, and none after the task has ended."""
    (mini / "twice.js").write_text(TWICE)
    assert nodejs.run(mini, "twice.js").stdout == "2\n"


LONG: Final = {**VARIABLES, "role": "chatterbox"}
WAYS: Final = ("poll", "chunked", "socket")


async def test_each_way_ends_with_exactly_the_text(mini: Path, front: World) -> None:
    """Through breaking lines, with a token that had run out, with WeChat in the background; and when all is over."""
    tasks = {way: await front.submit(userId=way) for way in WAYS}

    async def through_breaks(way: str) -> dict[str, Any]:
        async with breaking_line(front.url, cuts=2, after=3000) as url:
            return await followed(mini, way, url, tasks[way], "backgrounded")

    for shown in await asyncio.gather(*map(through_breaks, WAYS)):
        assert (shown["state"], shown["verified"], shown["lost"], shown["watching"]) == ("done", True, False, 0)
        assert len(shown["text"]) > 300
        assert 2 <= shown["asked"] <= 5  # once more after each problem, not for every question

    for name in ("task:{0}:events", "{{task:{0}:events}}:state"):  # of the first: its end comes from the row
        await front.redis.delete(name.format(tasks["poll"]["taskId"]))
    late = await asyncio.gather(*(followed(mini, way, front.url, tasks[of]) for way in WAYS for of in WAYS[:2]))
    assert [view["state"] for view in late] == ["done"] * 6
    assert {view["verified"] for view in late[1::2]} == {True}


async def test_the_page_shows_and_cancels(mini: Path, front: World) -> None:
    """With the library of today and with an older one; the token comes from the server that knows the session."""
    tasks = {new: await front.submit(userId=f"u{new}", variables=LONG) for new in ("0", "1")}

    async def token(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "session-1":
            return web.Response(status=401)
        task_id = request.match_info["taskId"]
        [task] = [task for task in tasks.values() if task["taskId"] == task_id]
        return web.json_response({"url": f"{front.url}/api/tasks/{task_id}", "token": task["token"]})

    server = web.Application()
    server.router.add_get("/api/tasks/{taskId}/token", token)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    page = (mini / "pages" / "task" / "task.js").read_text()
    own = page.replace("https://www.example.com", f"http://127.0.0.1:{runner.addresses[0][1]}")
    (mini / "pages" / "task" / "own.js").write_text(own)
    (mini / "page.js").write_text(PAGE + 'await import("./pages/task/own.js");\n')
    try:
        runs = (asyncio.to_thread(nodejs.run, mini, "page.js", tasks[new]["taskId"], NEW=new) for new in tasks)
        ended = await asyncio.gather(*runs)
    finally:
        await runner.cleanup()
    for found in ended:
        assert found.returncode == 0, found.stderr
        shown = json.loads(found.stdout)
        assert (shown["view"]["state"], shown["words"]) == ("cancelled", "任务已取消。")
