"""The `/v2` routes for what lasts: queues, flow-control keys, schedules, URL groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from daemon.dev.fake_qstash.message import milliseconds
from daemon.dev.fake_qstash.options import Options, Refused, require_loopback
from daemon.dev.fake_qstash.records import UrlGroup
from daemon.dev.fake_qstash.requests import json_body, target

if TYPE_CHECKING:
    from daemon.dev.fake_qstash.gate import Gate
    from daemon.dev.fake_qstash.server import FakeQstash

PARALLELISM_MAX: Final = 10_000


class Resources:
    """Handlers over one fake."""

    def __init__(self, fake: FakeQstash) -> None:
        self._fake = fake
        self._engine = fake.engine
        self._records = fake.records

    def routes(self) -> list[web.RouteDef]:
        """The routes for what lasts."""
        return [
            web.post("/v2/queues", self.put_queue),
            web.get("/v2/queues", self.queues),
            web.get("/v2/queues/{name}", self.queue),
            web.delete("/v2/queues/{name}", self.delete_queue),
            web.post("/v2/queues/{name}/{action:pause|resume}", self.pause_queue),
            web.get("/v2/flowControl/{key}", self.flow),
            web.post("/v2/flowControl/{key}/{action:pause|resume|resetRate}", self.change_flow),
            web.get("/v2/globalParallelism", self.parallelism),
            web.post("/v2/schedules/{destination:.+}", self.schedule),
            web.get("/v2/schedules", self.schedules),
            web.get("/v2/schedules/{id}", self.one_schedule),
            web.delete("/v2/schedules/{id}", self.delete_schedule),
            web.route("PATCH", "/v2/schedules/{id}/{action:pause|resume}", self.pause_schedule),
            web.post("/v2/topics/{name}/endpoints", self.add_endpoints),
            web.delete("/v2/topics/{name}/endpoints", self.remove_endpoints),
            web.get("/v2/topics", self.groups),
            web.get("/v2/topics/{name}", self.group),
            web.delete("/v2/topics/{name}", self.delete_group),
        ]

    # --- queues and flow control -----------------------------------------------------------------------------------

    async def put_queue(self, request: web.Request) -> web.Response:
        """`POST /v2/queues`: make or change one."""
        wanted = await json_body(request)
        name = wanted.get("queueName") if isinstance(wanted, dict) else None
        parallelism = wanted.get("parallelism", 1) if isinstance(wanted, dict) else None
        if not isinstance(name, str) or not name or not isinstance(parallelism, int):
            raise Refused("a queue needs queueName and parallelism")
        if not 1 <= parallelism <= PARALLELISM_MAX:
            raise Refused(f"parallelism must be 1 to {PARALLELISM_MAX}")
        self._engine.queue(name).limit(parallelism=parallelism, paused=bool(wanted.get("paused", False)))
        return web.json_response({})

    async def queues(self, request: web.Request) -> web.Response:
        """`GET /v2/queues`."""
        return web.json_response([_queue_json(name, gate) for name, gate in self._engine.queues.items()])

    async def queue(self, request: web.Request) -> web.Response:
        """`GET /v2/queues/{name}`."""
        return web.json_response(_queue_json(*self._queue(request)))

    async def delete_queue(self, request: web.Request) -> web.Response:
        """`DELETE /v2/queues/{name}`: and cancel what waits in it."""
        name, _ = self._queue(request)
        for message in [m for m in self._engine.live.values() if m.queue == name]:
            self._engine.cancel(message.id)
        del self._engine.queues[name]
        return web.json_response({})

    async def pause_queue(self, request: web.Request) -> web.Response:
        """`POST /v2/queues/{name}/pause` and `/resume`; at once, where the real one may take a minute."""
        self._queue(request)[1].limit(paused=request.match_info["action"] == "pause")
        return web.json_response({})

    def _queue(self, request: web.Request) -> tuple[str, Gate]:
        name = request.match_info["name"]
        if name not in self._engine.queues:
            raise Refused(f"queue {name[:100]} not found", 404)
        return name, self._engine.queues[name]

    async def flow(self, request: web.Request) -> web.Response:
        """`GET /v2/flowControl/{key}`."""
        key, gate = self._flow(request)
        return web.json_response(
            {
                "flowControlKey": key,
                "waitListSize": gate.waiting,
                "parallelismMax": gate.parallelism or 0,
                "parallelismCount": gate.inside,
                "rateMax": gate.rate or 0,
                "rateCount": gate.period_count,
                "ratePeriod": int(gate.period_s),
                "ratePeriodStart": int(gate.period_start),
                "isPaused": gate.paused,
            }
        )

    async def change_flow(self, request: web.Request) -> web.Response:
        """`POST /v2/flowControl/{key}/pause`, `/resume`, `/resetRate`."""
        _, gate = self._flow(request)
        if (action := request.match_info["action"]) == "resetRate":
            gate.reset_rate()
        else:
            gate.limit(paused=action == "pause")
        return web.json_response({})

    def _flow(self, request: web.Request) -> tuple[str, Gate]:
        key = request.match_info["key"]
        if key not in self._engine.flows:
            raise Refused(f"flow control key {key[:100]} not found", 404)
        return key, self._engine.flows[key]

    async def parallelism(self, request: web.Request) -> web.Response:
        """`GET /v2/globalParallelism`: this fake has no such limit."""
        return web.json_response({"parallelismMax": 0, "parallelismCount": self._fake.sender.in_flight})

    # --- schedules --------------------------------------------------------------------------------------------------

    async def schedule(self, request: web.Request) -> web.StreamResponse:
        """`POST /v2/schedules/{url or URL group}`."""
        destination, headers = target(request, "/v2/schedules/")
        return scheduled(self._fake, request, destination, await request.read(), Options.parse(headers))

    async def schedules(self, request: web.Request) -> web.Response:
        """`GET /v2/schedules`."""
        return web.json_response([schedule.as_json() for schedule in self._fake.schedules.all.values()])

    async def one_schedule(self, request: web.Request) -> web.Response:
        """`GET /v2/schedules/{id}`."""
        return web.json_response(self._fake.schedule(request.match_info["id"]).as_json())

    async def delete_schedule(self, request: web.Request) -> web.Response:
        """`DELETE /v2/schedules/{id}`."""
        if not self._fake.schedules.delete(request.match_info["id"]):
            raise Refused("schedule not found", 404)
        return web.json_response({})

    async def pause_schedule(self, request: web.Request) -> web.Response:
        """`PATCH /v2/schedules/{id}/pause` and `/resume`."""
        self._fake.schedule(request.match_info["id"]).paused = request.match_info["action"] == "pause"
        return web.json_response({})

    # --- URL groups -------------------------------------------------------------------------------------------------

    async def add_endpoints(self, request: web.Request) -> web.Response:
        """`POST /v2/topics/{name}/endpoints`: an endpoint of the same URL or name is replaced."""
        name, now = request.match_info["name"], self._fake.clock.now()
        wanted = _endpoints(await json_body(request))
        for endpoint in wanted:
            require_loopback(endpoint.get("url", ""))
        group = self._records.groups.setdefault(name, UrlGroup(name, now, now))
        group.endpoints = [old for old in group.endpoints if not any(_same(old, new) for new in wanted)] + wanted
        group.updated_at = now
        return web.json_response({})

    async def remove_endpoints(self, request: web.Request) -> web.Response:
        """`DELETE /v2/topics/{name}/endpoints`."""
        group, unwanted = self._group(request), _endpoints(await json_body(request))
        group.endpoints = [old for old in group.endpoints if not any(_same(old, gone) for gone in unwanted)]
        group.updated_at = self._fake.clock.now()
        return web.json_response({})

    async def groups(self, request: web.Request) -> web.Response:
        """`GET /v2/topics`."""
        return web.json_response([group.as_json() for group in self._records.groups.values()])

    async def group(self, request: web.Request) -> web.Response:
        """`GET /v2/topics/{name}`."""
        return web.json_response(self._group(request).as_json())

    async def delete_group(self, request: web.Request) -> web.Response:
        """`DELETE /v2/topics/{name}`."""
        del self._records.groups[self._group(request).name]
        return web.json_response({})

    def _group(self, request: web.Request) -> UrlGroup:
        group = self._records.groups.get(request.match_info["name"])
        if group is None:
            raise Refused("URL group not found", 404)
        return group


def scheduled(fake: FakeQstash, request: web.Request, destination: str, body: bytes, options: Options) -> web.Response:
    """Make a schedule of a call: `POST /v2/schedules/…`, or a publish call with `Upstash-Cron`."""
    fake.destinations(destination)
    schedule = fake.schedules.create(destination, body, options, caller_ip=request.remote or "")
    return web.json_response({"scheduleId": schedule.id})


def _queue_json(name: str, gate: Gate) -> dict[str, Any]:
    return {
        "name": name,
        "parallelism": gate.parallelism,
        "paused": gate.paused,
        "lag": gate.waiting,
        "createdAt": milliseconds(gate.created_at),
        "updatedAt": milliseconds(gate.updated_at),
    }


def _endpoints(body: Any) -> list[dict[str, str]]:
    wanted = body.get("endpoints") if isinstance(body, dict) else None
    if not isinstance(wanted, list) or not all(isinstance(item, dict) and item for item in wanted):
        raise Refused("a URL group needs endpoints")
    return [{name: str(value) for name, value in item.items() if name in ("name", "url") and value} for item in wanted]


def _same(one: dict[str, str], other: dict[str, str]) -> bool:
    return any(name in one and one[name] == other.get(name) for name in ("name", "url"))
