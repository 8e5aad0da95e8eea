"""The HTTP server of the fake: its doors and its control routes. `FakeLLM` is all that others use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from aiohttp import web

from daemon.dev.fake_llm import real_models, writing
from daemon.dev.fake_llm.answering import Answering, Pace, refusal_of
from daemon.dev.fake_llm.calls import Call, CallLog
from daemon.dev.fake_llm.faults import KINDS, Faults
from daemon.dev.fake_llm.fitting import PLAIN_SCHEMA, Fitting, schema_in
from daemon.dev.fake_llm.shapes import Asked, GeminiShape, Malformed, OpenAIShape, Shape

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
_METHOD: Final = re.compile(r"(?P<model>.+):(?P<method>generateContent|streamGenerateContent)")


class FakeLLM:
    """The fake as an async context manager; `url`, `openai_url` and `gemini_url` are known inside it.

    `tokens_per_s` is the speed of writing, `first_token_s` the wait before, `words` the length of prose. `answer`
    gets the request and returns the text, or None to have it written as usual. `log_path` gets a JSON line for each
    beginning and each end of a call. `strict` answers only for models that the vendors offer, and refuses the
    parameters that they refuse.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, tokens_per_s: float = 80.0, first_token_s: float = 0.2,
        keepalive_s: float = 0.5, drip_s: float = 2.0, words: int = 90,
        answer: Callable[[Asked], str | None] | None = None, log_path: Path | None = None,
        strict: bool = False,
    ) -> None:  # fmt: skip
        self._host, self._port = host, port
        self._pace = Pace(1 / tokens_per_s, first_token_s, keepalive_s, drip_s)
        self._words = words
        self._answer = answer
        self._strict = strict
        self.refused: list[str] = []  #: what a strict fake refused: the messages, in order
        self._faults = Faults()
        self._log = CallLog(log_path)
        self._runner: web.AppRunner | None = None
        self._told: set[str] = set()  #: conversations seen before: their input counts as cached
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._openai), web.post("/chat/completions", self._openai),
                web.get("/v1/models", self._models), web.get("/models", self._models),
                web.post("/v1beta/models/{call:.+}", self._gemini), web.post("/v1/models/{call:.+}", self._gemini),
                web.post("/_fake/plan", self._plan), web.get("/_fake/calls", self._calls),
                web.post("/_fake/reset", self._reset),
            ]
        )  # fmt: skip
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://{self._host}:{self._port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.stopping = True
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def openai_url(self) -> str:
        """Base URL for OpenAI; DeepSeek's may be this or `url`."""
        return f"{self.url}/v1"

    @property
    def gemini_url(self) -> str:
        """Base URL for Gemini; clients add the version."""
        return self.url

    @property
    def calls(self) -> list[Call]:
        """All calls so far, in order of arrival."""
        return self._log.calls

    def max_at_once(self, model: str) -> int:
        """The most calls of a model that were ever open together."""
        return self._log.max_at_once[model]

    def plan(self, *faults: str, model: str = "*") -> int:
        """Faults for the next calls, one each; `ok` lets one through. Raises `ValueError` for an unknown name."""
        return self._faults.plan(list(faults), model)

    def reset(self) -> None:
        """Forget calls, plans and what failed once."""
        self._faults.clear()
        self._log.clear()
        self._told.clear()

    # --- control --------------------------------------------------------------------------------------------------

    async def _plan(self, request: web.Request) -> web.Response:
        body = await request.json()
        try:
            waiting = self._faults.plan(list(body["faults"]), str(body.get("model") or "*"))
        except (KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": str(error), "kinds": dict(KINDS)}, status=400)
        return web.json_response({"planned": waiting})

    async def _calls(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._log.told()), content_type="application/json")

    async def _reset(self, _: web.Request) -> web.Response:
        self.reset()
        return web.json_response({"reset": True})

    async def _models(self, _: web.Request) -> web.Response:
        names = ["deepseek-flash", "deepseek-reasoner", "gpt-fake", *(f"fault-{kind}" for kind in KINDS)]
        return web.json_response({"object": "list", "data": [{"id": n, "object": "model"} for n in names]})

    # --- the two doors --------------------------------------------------------------------------------------------

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await _object(request)
        model = str(body.get("model", ""))
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        shape = OpenAIShape(model, len(self.calls) + 1, usage=usage)
        authorised = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        return await self._serve(request, shape, body, model, stream=bool(body.get("stream")), key=authorised)

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        named = _METHOD.fullmatch(request.match_info["call"])  # aiohttp has decoded %3A
        if named is None:
            return web.json_response(GeminiShape().refusal(404), status=404)
        shape = GeminiShape(named["model"], len(self.calls) + 1)
        stream = named["method"] == "streamGenerateContent"
        key = request.headers.get("x-goog-api-key") or request.query.get("key", "")
        return await self._serve(request, shape, await _object(request), named["model"], stream=stream, key=key)

    async def _serve(
        self, request: web.Request, shape: Shape, body: dict[str, Any], model: str, *, stream: bool, key: str
    ) -> web.StreamResponse:
        if not key:
            return web.json_response(shape.refusal(401), status=401)
        try:
            asked = shape.asked(body, model, stream=stream)
            fault = self._faults.take(asked.model, asked.conversation)
        except (Malformed, ValueError, AttributeError) as error:
            refusal = shape.refusal(400)
            refusal["error"]["message"] = str(error)
            return web.json_response(refusal, status=400)
        if self._strict and (no := real_models.refusal(asked.model, body)) is not None:
            self.refused.append(no[1]["message"])
            return web.json_response({"error": no[1]}, status=no[0])
        told = {
            "shape": asked.shape, "model": asked.model, "stream": asked.stream, "user": asked.user,
            "conversation": asked.conversation, "images": len(asked.images),
        }  # fmt: skip
        with self._log.call(fault.kind if fault else "", **told) as call:
            if fault is not None and (refused := refusal_of(shape, fault, asked, key)) is not None:
                return refused
            text = self._said(asked)
            known, self._told = asked.conversation in self._told, self._told | {asked.conversation}
            return await Answering(request, shape, asked, fault, text, call, self._pace, cached=known).run()

    # --- what is said ---------------------------------------------------------------------------------------------

    def _said(self, asked: Asked) -> str:
        text = None if self._answer is None else self._answer(asked)
        return self._prose(asked) if text is None else text

    def _prose(self, asked: Asked) -> str:
        rng = Random(f"{asked.model}{asked.conversation}")
        if asked.json_output:
            schema = asked.schema or schema_in(asked.system + asked.prompt) or PLAIN_SCHEMA
            return msgspec.json.encode(Fitting(schema, rng, writing.words(asked.prompt)).value()).decode()
        return writing.described(asked.images) + writing.prose(asked.prompt, rng, self._words)


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        body = {}
    return body if isinstance(body, dict) else {}
