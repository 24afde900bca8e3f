"""Who gets in: a key, a free place, and an upload that is neither too large nor too slow.

A plain ASGI middleware, because all of this must be known before the framework reads the body.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections import deque

from starlette.datastructures import Headers

from pipelines.serve.meter import Meter
from pipelines.serve.problems import Problem, unauthorized
from pipelines.serve.settings import Settings

ROUTES = ("/v1/score", "/v1/ask", "/v1/models")
GIVEN_UP = 499  # the client closed the connection before an answer began; nginx's number for it
FORM_BYTES = 64 << 10  # what a form may take beside its files


def _below_prefix(scope) -> str:
    """The path as the routes know it: Serve's `route_prefix` (or a proxy's) stands before it in `scope`."""
    path, prefix = scope.get("path", ""), scope.get("root_path", "").rstrip("/")
    return path[len(prefix) :] if path == prefix or path.startswith(f"{prefix}/") else path


class Gate:
    """Guards everything under /v1/. What is posted there takes a place until it is answered or given up."""

    def __init__(self, app, settings: Settings, keys: list[str], meter: Meter):
        self.app, self.settings, self.meter = app, settings, meter
        self.keys = [key.encode() for key in keys]
        self.most_bytes = int(settings.max_mb * 1e6) + FORM_BYTES
        self.taken = 0
        self.took: deque[float] = deque(maxlen=32)  # seconds that the last answers took

    async def __call__(self, scope, receive, send):
        path = _below_prefix(scope)
        if scope["type"] != "http" or not path.startswith("/v1/"):
            return await self.app(scope, receive, send)
        start, status = time.monotonic(), GIVEN_UP

        async def noted(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._guarded(scope, receive, noted)
        finally:
            route = path if path in ROUTES else "other"
            self.meter.request(route, status, time.monotonic() - start)

    async def _guarded(self, scope, receive, send) -> None:
        headers = Headers(scope=scope)
        try:
            self._check_key(headers)
            if scope["method"] == "POST":
                self._check_upload(headers)
                self._check_place()
        except Problem as problem:
            return await problem.response()(scope, receive, send)
        if scope["method"] != "POST":
            return await self.app(scope, receive, send)
        self.taken += 1
        start = time.monotonic()
        try:
            await self.app(scope, self._watched(receive), send)
            self.took.append(time.monotonic() - start)
        finally:
            self.taken -= 1

    def _check_key(self, headers: Headers) -> None:
        if not self.keys:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = (token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")).encode()
        # all keys are compared, so that the time does not tell which one is near
        if not any([hmac.compare_digest(given, key) for key in self.keys]):
            raise unauthorized("send a key: `Authorization: Bearer KEY`" if not given else "not one of the keys")

    def _check_upload(self, headers: Headers) -> None:
        if not headers.get("content-type", "").startswith("multipart/form-data"):
            raise Problem(415, "NOT_MULTIPART", "send multipart/form-data with a part `file`")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.most_bytes:
            raise self._too_large()

    def _check_place(self) -> None:
        if self.taken >= self.settings.max_requests:
            mean = sum(self.took) / len(self.took) if self.took else 1
            seconds = min(60, max(1, math.ceil(mean / 2)))
            raise Problem(429, "BUSY", f"try again in {seconds} s", {"Retry-After": str(seconds)})

    def _too_large(self) -> Problem:
        return Problem(413, "TOO_LARGE", f"more than {self.settings.max_mb:g} MB")

    def _watched(self, receive):
        """`receive` that counts bytes, and gives up on an upload that does not end in time."""
        seconds = self.settings.upload_timeout_s
        until = asyncio.get_running_loop().time() + seconds
        left, whole = self.most_bytes, False

        async def watched():
            nonlocal left, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                detail = f"not complete after {seconds:g} s"
                raise Problem(408, "SLOW_UPLOAD", detail, {"Connection": "close"}) from None
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large()
            whole = not message.get("more_body", False)
            return message

        return watched
