"""What Prometheus asks for at /metrics: one count over all ingresses, whichever of them is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

log = logging.getLogger("ray.serve")
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
EVERY_S = 1.0  # between two messages of an ingress


class Meter:
    """Counts."""

    def __init__(self):
        self.registry = CollectorRegistry()
        here = {"registry": self.registry}
        self.requests = Counter("sqllm_requests", "Answers, by HTTP status", ["route", "status"], **here)
        self.seconds = Histogram(
            "sqllm_request_seconds", "From the request to its end", ["route"], buckets=SECONDS, **here
        )
        labels = ["status", "error_code", "model"]
        self.rows = Counter("sqllm_rows", "Channels of recordings, as `sqllm score` counts them", labels, **here)
        self.audio = Counter("sqllm_audio_seconds", "Audio that was scored, all channels", **here)

    def request(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)

    def judged(self, rows: Iterable[dict]) -> None:
        for row in rows:
            self._row(row["status"], row["error_code"] or "", row["model"], row["duration_s"] or 0.0)

    def _row(self, status: str, error_code: str, model: str, seconds: float) -> None:
        self.rows.labels(status, error_code, model).inc()
        self.audio.inc(seconds if status == "ok" else 0.0)

    def add(self, counted: list[tuple[str, tuple]]) -> None:
        for name, arguments in counted:
            getattr(self, name)(*arguments)

    async def text(self) -> bytes:
        return generate_latest(self.registry)


class RemoteMeter(Meter):
    """A `Meter` elsewhere, told of everything once in a while. What it cannot be told is lost, and harms nobody."""

    def __init__(self, handle):
        self.handle = handle
        self.waiting: list[tuple[str, tuple]] = []
        self.telling: asyncio.Task | None = None

    def request(self, route: str, status: int, seconds: float) -> None:
        self._later("request", (route, status, seconds))

    def _row(self, *row) -> None:
        self._later("_row", row)

    async def text(self) -> bytes:
        await self._tell()
        return await self.handle.text.remote()

    def _later(self, name: str, arguments: tuple) -> None:
        self.waiting.append((name, arguments))
        if self.telling is None or self.telling.done():
            self.telling = asyncio.create_task(self._soon())

    async def _soon(self) -> None:
        while self.waiting:
            await asyncio.sleep(EVERY_S)
            await self._tell()

    async def _tell(self) -> None:
        counted, self.waiting = self.waiting, []
        try:
            await self.handle.add.remote(counted)
        except Exception:
            log.exception("could not count")
