"""What an API call says: destination, headers, filters, body. Raises Refused (400) for what makes no sense."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from aiohttp import web

from daemon.dev.fake_qstash.options import Headers, Refused
from daemon.dev.fake_qstash.records import Query


def target(request: web.Request, prefix: str) -> tuple[str, list[tuple[str, str]]]:
    """Where a publish call goes, and its headers.

    The URL is taken from the raw request line, because it is signed as it was written; the query belongs to it, except
    for `qstash_token` and `upstash-…`, which stand for headers.
    """
    path, _, query = request.raw_path.removeprefix(prefix).partition("?")
    if "://" not in path and "%3a%2f%2f" in path.lower():
        path = unquote(path)
    headers = list(headers_of(request))
    own = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if _is_option(name)]
    if own:
        headers += [(name, value) for name, value in own if name.lower() != "qstash_token"]
        query = urlencode([pair for pair in parse_qsl(query, keep_blank_values=True) if not _is_option(pair[0])])
    return (f"{path}?{query}" if query else path), headers


def _is_option(name: str) -> bool:
    return name.lower() == "qstash_token" or name.lower().startswith("upstash-")


def headers_of(request: web.Request) -> Headers:
    """All headers of the call, repeated ones too."""
    return tuple(request.headers.items())


async def json_body(request: web.Request) -> Any:
    """The decoded body. Raises Refused (400)."""
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise Refused("the body is not JSON") from error


async def filters(request: web.Request, ids: str = "") -> Query:
    """Filters of a call; lists of ids come in the query (JavaScript) or in a JSON body (Python)."""
    query = {name: list(request.query.getall(name)) for name in request.query}
    if not query.get("count", ["1"])[0].isdecimal():
        raise Refused("count must be a number")
    for name in ("fromDate", "toDate"):
        if not query.get(name, ["1"])[0].isdecimal():
            raise Refused(f"{name} must be unix milliseconds")
    if ids and await request.read():
        body = await json_body(request)
        if isinstance(body, dict) and ids in body:
            query[ids] = [str(item) for item in body[ids]]
    return query
