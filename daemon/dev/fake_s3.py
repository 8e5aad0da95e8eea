"""A bucket that really checks signatures: SigV4 in the query, recomputed from the request as it came.

Written apart from `daemon.blobs.sigv4`, from AWS' description, so that the two check each other. Keeps objects in
memory; faults can be ordered. Used by tests and by whoever develops without a bucket:

    python -m daemon.dev.fake_s3 9000
"""

from __future__ import annotations

import asyncio
import calendar
import hashlib
import hmac
import sys
import time
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from aiohttp import web

_FAULTS: Final = {500: "InternalError", 503: "SlowDown", 301: "PermanentRedirect", 429: "TooManyRequests"}


class Denied(Exception):
    """403 with this code."""


@dataclass
class FakeS3:
    """The server. `objects` by path (`/bucket/key`); `requests` as (method, path, status)."""

    access_key_id: str = "key-id"
    secret: str = "a-secret-of-the-bucket"  # noqa: S105  # it is a fake's
    region: str = "auto"
    bucket: str = "images"
    objects: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    fault: int = 0  #: answer this status
    delay_s: float = 0.0  #: before the answer
    cut: bool = False  #: end a body half-way
    chunked: bool = False  #: answer without a length
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; `url` is known then."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        host, bound = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{bound}"

    async def stop(self) -> None:
        """Close everything."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0])
        await asyncio.sleep(self.delay_s)
        try:
            self._check(request)
            response = await self._answer(request, path)
        except Denied as denied:
            response = _error(403, str(denied))
        self.requests.append((request.method, path, response.status))
        return response

    async def _answer(self, request: web.Request, path: str) -> web.StreamResponse:
        if self.fault:
            answer = _error(self.fault, _FAULTS.get(self.fault, "Fault"))
            if self.fault == 301:
                answer.headers["Location"] = f"{self.url}/{self.bucket}/elsewhere"
            return answer
        if path.split("/")[1] != self.bucket:
            return _error(404, "NoSuchBucket")
        if request.method == "PUT":
            self.objects[path] = (request.content_type, await request.read())
            return web.Response()
        if request.method == "DELETE":
            self.objects.pop(path, None)
            return web.Response(status=204)
        if path not in self.objects:
            return _error(404, "NoSuchKey")
        mime_type, data = self.objects[path]
        if self.cut:
            response = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        answer = web.Response(body=data, content_type=mime_type)
        if self.chunked:
            answer.enable_chunked_encoding()
        return answer

    def _check(self, request: web.Request) -> None:
        """AWS' steps: canonical request, string to sign, signing key, signature; then the time."""
        path, _, query = request.raw_path.partition("?")
        given = dict(parse_qsl(query, keep_blank_values=True))
        signature = given.pop("X-Amz-Signature", None)
        if signature is None:
            raise Denied("AccessDenied")
        key_id, day, region, service, end = given["X-Amz-Credential"].split("/")
        if key_id != self.access_key_id:
            raise Denied("InvalidAccessKeyId")
        signed = given["X-Amz-SignedHeaders"].split(";")
        canonical = "\n".join(
            [
                request.method,
                quote(unquote(path), safe="/-_.~"),
                "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(given.items())),
                *(f"{name}:{request.headers.get(name, '').strip()}" for name in signed),
                "",
                ";".join(signed),
                "UNSIGNED-PAYLOAD",
            ]
        )
        scope = f"{day}/{self.region}/s3/aws4_request"
        if (region, service, end) != (self.region, "s3", "aws4_request") or "host" not in signed:
            raise Denied("AuthorizationQueryParametersError")
        key = f"AWS4{self.secret}".encode()
        for step in (day, self.region, "s3", "aws4_request"):
            key = hmac.new(key, step.encode(), hashlib.sha256).digest()
        stamp = given["X-Amz-Date"]
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
        if not hmac.compare_digest(hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest(), signature):
            raise Denied("SignatureDoesNotMatch")
        signed_at = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
        if not -900 < time.time() - signed_at < int(given["X-Amz-Expires"]):
            raise Denied("AccessDenied")


def _error(status: int, code: str) -> web.Response:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>secret words</Message></Error>'
    return web.Response(status=status, text=body, content_type="application/xml")


async def _main(port: int) -> None:
    server = FakeS3()
    await server.start(port)
    print(f"S3_ENDPOINT_URL={server.url} S3_BUCKET={server.bucket} "
          f"S3_ACCESS_KEY_ID={server.access_key_id} S3_SECRET_ACCESS_KEY={server.secret}")  # fmt: skip
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 9000))
