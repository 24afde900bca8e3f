"""The endpoint on Ray Serve: ingresses that take uploads, decode and cut, before replicas of the model."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from pipelines.serve.judging import AHEAD
from pipelines.serve.meter import Meter, RemoteMeter
from pipelines.serve.problems import Problem
from pipelines.serve.settings import Settings
from sqllm.errors import UsageError
from sqllm.recording import Chunk

KEYS = "SQLLM_API_KEYS"  # separated by commas
TARGET = {"cpu": 8, "cuda": 64}  # pieces of recordings that keep a replica busy; more of them ask for another replica
BUSY = BackpressureConfig(status_code=429, retry_after_s=2)


def application(settings: Settings) -> serve.Application:
    """What `serve.run` takes. UsageError where the model is not there to be served."""
    from sqllm.model.config import trained

    trained(settings.model)
    gpus = ray.cluster_resources().get("GPU", 0) if settings.device == "auto" else 0
    device = settings.device if settings.device != "auto" else "cuda" if gpus else "cpu"
    target = TARGET[device]
    model = serve.deployment(
        Replica,
        name="model",
        ray_actor_options={"num_cpus": settings.model_cpus, "num_gpus": int(device == "cuda")},
        autoscaling_config=_scaled(settings.min_replicas, settings.max_replicas, target),
        max_ongoing_requests=4 * target,  # a batch can fill while another one is scored, and words are made
        max_queued_requests=AHEAD * settings.max_requests,
        health_check_timeout_s=60,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        ray_actor_options={"num_cpus": settings.ingress_cpus},
        autoscaling_config=_scaled(settings.min_ingress, settings.max_ingress, 32),
        max_ongoing_requests=2 * settings.max_requests,  # what comes after max_requests is here to be refused
        max_queued_requests=settings.max_requests,
        backpressure_config=BUSY,
    )
    meter = serve.deployment(Meter, name="meter", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=100)
    return ingress.bind(settings, model.bind(settings.model, device, settings.model_cpus), meter.bind())


def _scaled(least: int, most: int, target: float) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=least, max_replicas=most, target_ongoing_requests=target, upscale_delay_s=10, downscale_delay_s=300
    )


class Replica:
    """One copy of the model, in a process of its own."""

    def __init__(self, name: str, device: str, threads: int):
        import torch

        from pipelines.serve.model import Model
        from sqllm import Predictor

        torch.set_num_threads(threads)
        self.model = Model(Predictor.load(name, device), name)

    async def info(self) -> dict:
        return await self.model.info()

    async def score(self, chunk: Chunk, profile: str | None) -> dict:
        return await self.model.score(chunk, profile)

    async def answer(self, *asked) -> AsyncIterator[str]:
        async for piece in self.model.answer(*asked):
            yield piece


class Remote:
    """`model.Model`, as a handle to its replicas."""

    def __init__(self, handle: serve.handle.DeploymentHandle):
        self.handle = handle
        self.words = handle.options(stream=True)

    async def info(self) -> dict:
        return await self._result(self.handle.info.remote())

    async def score(self, chunk: Chunk, profile: str | None = None) -> dict:
        return await self._result(self.handle.score.remote(chunk, profile))

    async def answer(self, *asked) -> AsyncIterator[str]:
        response = self.words.answer.remote(*asked)
        try:
            with _problems():
                async for piece in response:
                    yield piece
        finally:
            response.cancel()

    async def _result(self, response):
        try:
            with _problems():
                return await response
        except asyncio.CancelledError:
            response.cancel()
            raise


@contextmanager
def _problems():
    """What Serve says of a replica, as a Problem."""
    try:
        yield
    except BackPressureError:
        raise Problem(429, "BUSY", "try again in 2 s", {"Retry-After": "2"}) from None
    except (DeploymentUnavailableError, ray.exceptions.RayActorError):
        raise Problem(503, "UNAVAILABLE", "a copy of the model went away", {"Retry-After": "5"}) from None


class Ingress:
    """The application of `app`, in a process without the model."""

    def __init__(self, settings: Settings, model: serve.handle.DeploymentHandle, meter: serve.handle.DeploymentHandle):
        self.settings, self.model, self.meter = settings, Remote(model), RemoteMeter(meter)
        self.keys = [key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()]
        if not self.keys and not settings.no_auth:
            raise UsageError(f"no {KEYS} in the environment: set keys, separated by commas, or `no_auth: true`")

    def __serve_build_asgi_app__(self):
        from pipelines.serve.app import make_app

        pool = ThreadPoolExecutor(max(2, math.ceil(self.settings.ingress_cpus)), "decode")
        keys = [] if self.settings.no_auth else self.keys
        return make_app(self.settings, self.model, pool, keys, self.meter)
