"""The OpenAPI 3.1 description of everything that is served over HTTP: relay, gateway, and the daemon's own port."""

from __future__ import annotations

from typing import Any, Final

from daemon.config import Settings
from daemon.contract_docs import shapes
from daemon.contract_docs.routes import ROUTES, ResponseDoc, Route
from daemon.contract_docs.schemas import DIALECT, Schema
from daemon.domain.messages import CONTRACT_VERSION
from daemon.gateway.access import COOKIE

_TAGS: Final = {
    "relay": "`python -m daemon relay`: takes QStash's signed calls. Touches Redis only.",
    "gateway": "`python -m daemon gateway`, optional: submit, follow, cancel, upload.",
    "ops": "The daemon's own port, on loopback: health, metrics, orders.",
}
_HEADERS: Final[dict[str, Schema]] = {
    "Retry-After": {"description": "seconds; the same as `retryAfter`", "schema": {"type": "integer", "minimum": 1}},
    "Upstash-NonRetryable-Error": {"description": "QStash does not come back", "schema": {"const": "true"}},
    "Deprecation": {"description": "RFC 9745: since when to use the other routes", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "how to show who one is", "schema": {"const": "Bearer"}},
}


def _bearer(told: str) -> Schema:
    return {"type": "http", "scheme": "bearer", "description": told}


def _carried(place: str, name: str, told: str) -> Schema:
    return {"type": "apiKey", "in": place, "name": name, "description": told}


_WHO: Final[dict[str, Schema]] = {
    "signature": _carried("header", "Upstash-Signature", "JWT of QStash over the address and the body (protocol 8)"),
    "apiKey": _bearer("a key of API_KEYS: for servers"),
    "apiKeyHeader": _carried("header", "X-API-Key", "the same"),
    "taskToken": _bearer("JWT, HS256, TASK_TOKEN_SECRET: `sub` is the task, `exp`, optional `scope` = `task`"),
    "taskTokenQuery": _carried("query", "token", "the same, for EventSource and WebSocket"),
    "taskTokenCookie": _carried("cookie", COOKIE, "the same, from pages of ALLOWED_ORIGINS"),
    "uploadTicket": _bearer("the same with `scope` = `upload`, `sub` = user, optional `maxBytes`"),
    "uploadTicketQuery": _carried("query", "token", "the same"),
    "admin": _bearer("ADMIN_TOKEN"),
}


def document() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, Any] = {}
    for route in ROUTES:
        item = paths.setdefault(route.path, {"servers": _servers(route.server)})
        item[route.method] = _operation(route)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "qstreamd",
            "version": str(CONTRACT_VERSION),
            "description": "Generated from the code by `python -m daemon export-contracts --write docs/`; don't edit"
            " it. The words around it: protocol.md.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": _servers("all"),
        "tags": [{"name": name, "description": told} for name, told in _TAGS.items()],
        "paths": paths,
        "components": {"schemas": shapes.everything(), "headers": _HEADERS, "securitySchemes": _WHO},
    }


def _servers(name: str) -> list[Schema]:
    settings = Settings()
    ports = {"relay": settings.relay.port, "gateway": settings.gateway.port, "ops": settings.ops.port}
    return [
        {"url": f"http://127.0.0.1:{port}", "description": server}
        for server, port in ports.items()
        if name in {server, "all"}
    ]


def _operation(route: Route) -> Schema:
    words = [word for word in route.path.replace("/", "-").split("-") if word and word[0] != "{"]
    operation: Schema = {
        "operationId": "_".join([route.method, *words]),
        "tags": list(_TAGS) if route.server == "all" else [route.server],
        "summary": route.title,
        "security": [{name: []} for name in route.who],
        "parameters": list(route.parameters),
        "responses": {str(status): _response(answer) for status, answer in sorted(route.answers.items())},
    }
    if route.bodies:
        content = {kind: {"schema": schema} for kind, schema in route.bodies.items()}
        operation["requestBody"] = {"required": route.path != "/api/admin/queues/{queue}/{order}", "content": content}
    if route.deprecated:
        operation["deprecated"] = True
    return operation


def _response(answer: ResponseDoc) -> Schema:
    response: Schema = {"description": answer.when}
    if answer.headers:
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in answer.headers}
    if answer.bodies:
        response["content"] = {kind: {"schema": schema} for kind, schema in answer.bodies.items()}
    return response
