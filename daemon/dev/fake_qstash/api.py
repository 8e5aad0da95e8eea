"""The `/v2` routes for messages, keys, the log and dead letters, as the two official clients call them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from aiohttp import web

from daemon.dev.fake_qstash.options import Options, Refused
from daemon.dev.fake_qstash.records import Query, matches, page
from daemon.dev.fake_qstash.requests import filters, headers_of, json_body, target
from daemon.dev.fake_qstash.resources import scheduled

if TYPE_CHECKING:
    from daemon.dev.fake_qstash.server import FakeQstash

BATCH_MAX: Final = 1000


class Api:
    """Handlers over one fake."""

    def __init__(self, fake: FakeQstash) -> None:
        self._fake = fake
        self._engine = fake.engine
        self._records = fake.records

    def routes(self) -> list[web.RouteDef]:
        """The routes for messages and what becomes of them."""
        return [
            web.post("/v2/publish/{destination:.+}", self.publish),
            web.post("/v2/enqueue/{queue}/{destination:.+}", self.enqueue),
            web.post("/v2/batch", self.batch),
            web.get("/v2/keys", self.keys),
            web.post("/v2/keys/rotate", self.rotate),
            web.get("/v2/messages/{id}", self.message),
            web.delete("/v2/messages/{id}", self.cancel),
            web.delete("/v2/messages", self.cancel_many),
            web.get("/v2/events", self.events),
            web.get("/v2/dlq", self.dead),
            web.delete("/v2/dlq", self.delete_dead),
            web.post("/v2/dlq/retry", self.retry_dead),
            web.post("/v2/dlq/retry/{id}", self.retry_one_dead),
            web.get("/v2/dlq/{id}", self.one_dead),
            web.delete("/v2/dlq/{id}", self.delete_one_dead),
        ]

    # --- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, request: web.Request) -> web.StreamResponse:
        """`POST /v2/publish/{url or URL group}`; with `Upstash-Cron`, a schedule."""
        destination, headers = target(request, "/v2/publish/")
        options = Options.parse(headers)
        body = await request.read()
        if options.cron is not None:
            return scheduled(self._fake, request, destination, body, options)
        return await self._published(request, destination, body, options)

    async def enqueue(self, request: web.Request) -> web.StreamResponse:
        """`POST /v2/enqueue/{queue}/{url or URL group}`."""
        raw_queue = request.raw_path.removeprefix("/v2/enqueue/").partition("/")[0]
        destination, headers = target(request, f"/v2/enqueue/{raw_queue}/")
        return await self._published(
            request, destination, await request.read(), Options.parse(headers), queue=unquote(raw_queue)
        )

    async def batch(self, request: web.Request) -> web.Response:
        """`POST /v2/batch`: refused as a whole if one message is malformed."""
        items = await json_body(request)
        if not isinstance(items, list) or len(items) > BATCH_MAX:
            raise Refused(f"a batch is an array of at most {BATCH_MAX} messages")
        ready = []
        for item in items:
            if not isinstance(item, dict) or not isinstance(item.get("destination"), str):
                raise Refused("a message of a batch needs a destination")
            headers = item.get("headers") or {}
            options = Options.parse((str(name), str(value)) for name, value in headers.items())
            self._fake.destinations(item["destination"])
            ready.append((item["destination"], str(item.get("body") or "").encode(), options, item.get("queue")))
        caller_ip = request.remote or ""
        return web.json_response(
            [
                self._fake.publish(d, body, options, caller_ip=caller_ip, queue=queue)[0]
                for d, body, options, queue in ready
            ]
        )

    async def _published(
        self, request: web.Request, destination: str, body: bytes, options: Options, *, queue: str | None = None
    ) -> web.StreamResponse:
        answer, duplicate = self._fake.publish(destination, body, options, caller_ip=request.remote or "", queue=queue)
        return web.json_response(answer, status=202 if duplicate else 200)

    # --- keys, messages, events --------------------------------------------------------------------------------------

    async def keys(self, request: web.Request) -> web.Response:
        """`GET /v2/keys`."""
        return web.json_response(self._fake.keys.as_json())

    async def rotate(self, request: web.Request) -> web.Response:
        """`POST /v2/keys/rotate`."""
        self._fake.keys.rotate()
        return web.json_response(self._fake.keys.as_json())

    async def message(self, request: web.Request) -> web.Response:
        """`GET /v2/messages/{id}`: only while it is on its way."""
        message = self._engine.live.get(request.match_info["id"])
        if message is None:
            raise Refused("message not found", 404)
        return web.json_response(message.as_json())

    async def cancel(self, request: web.Request) -> web.Response:
        """`DELETE /v2/messages/{id}`."""
        if not self._engine.cancel(request.match_info["id"]):
            raise Refused("message not found", 404)
        return web.json_response({"cancelled": 1})

    async def cancel_many(self, request: web.Request) -> web.Response:
        """`DELETE /v2/messages`: by ids or filters; none of them means all, as at the real one."""
        query = await filters(request, "messageIds")
        chosen = [m.id for m in self._engine.live.values() if matches(m.as_json(), query)]
        return web.json_response({"cancelled": sum(self._engine.cancel(message_id) for message_id in chosen)})

    async def events(self, request: web.Request) -> web.Response:
        """`GET /v2/events`: newest first."""
        return web.json_response(self._records.events(await filters(request)))

    # --- dead letters ------------------------------------------------------------------------------------------------

    async def dead(self, request: web.Request) -> web.Response:
        """`GET /v2/dlq`."""
        query = await filters(request)
        letters, cursor = page(((letter.id, letter.as_json()) for letter in self._records.letters(query)), query)
        return web.json_response({"messages": letters, **({"cursor": cursor} if cursor else {})})

    async def one_dead(self, request: web.Request) -> web.Response:
        """`GET /v2/dlq/{id}`."""
        letter = self._records.dead.get(request.match_info["id"])
        if letter is None:
            raise Refused("dead letter not found", 404)
        return web.json_response(letter.as_json())

    async def delete_one_dead(self, request: web.Request) -> web.Response:
        """`DELETE /v2/dlq/{id}`."""
        if self._records.dead.pop(request.match_info["id"], None) is None:
            raise Refused("dead letter not found", 404)
        return web.json_response({"deleted": 1})

    async def delete_dead(self, request: web.Request) -> web.Response:
        """`DELETE /v2/dlq`: by ids or filters; none of them means all, `count` at a time."""
        chosen = self._letters(await filters(request, "dlqIds"))
        for dlq_id in chosen:
            del self._records.dead[dlq_id]
        return web.json_response({"deleted": len(chosen)})

    async def retry_one_dead(self, request: web.Request) -> web.Response:
        """`POST /v2/dlq/retry/{id}`: a new message; headers of this call change its options."""
        try:
            message_id = self._engine.retry_dead(
                request.match_info["id"], headers_of(request), caller_ip=request.remote or ""
            )
        except KeyError:
            raise Refused("dead letter not found", 404) from None
        return web.json_response({"messageId": message_id})

    async def retry_dead(self, request: web.Request) -> web.Response:
        """`POST /v2/dlq/retry`: by ids or filters."""
        changes, caller_ip = headers_of(request), request.remote or ""
        chosen = self._letters(await filters(request, "dlqIds"))
        ids = [self._engine.retry_dead(dlq_id, changes, caller_ip=caller_ip) for dlq_id in chosen]
        return web.json_response({"responses": [{"messageId": message_id} for message_id in ids]})

    def _letters(self, query: Query) -> list[str]:
        count = int(query.get("count", ["100"])[0])
        return [letter.id for letter in self._records.letters(query)][:count]
