import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn

from pipelines.serve.app import make_app
from pipelines.serve.meter import Meter
from pipelines.serve.model import Model
from pipelines.serve.settings import Settings


class StandIn:
    """A predictor without a model: mos is 1 + the start of the window / 10; a batch takes `seconds`."""

    fingerprint, batch = "stand-in", 4
    model = SimpleNamespace(device="cpu")

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.batches = seconds, []
        self.profiles = {"expert": SimpleNamespace(words="Listener: expert. ")}

    def score_chunks(self, chunks, profile=None):
        time.sleep(self.seconds)
        self.batches.append((profile, [len(chunk.windows) for chunk in chunks]))
        return [self._score(chunk) for chunk in chunks]

    def _score(self, chunk):
        if "poison" in chunk.uri:
            raise RuntimeError("out of luck")
        mean = np.tile(np.arange(1.0, 6.0), (len(chunk.windows), 1))
        mean[:, 0] = 1 + np.asarray(chunk.starts_s) / 10
        mean[np.asarray(chunk.speech_s) == 0] = np.nan
        return {"mean": mean, "std": np.full_like(mean, 0.5)}

    def answer_about(self, worst, question, profile=None, other=None):
        compared = [worst] if other is None else [worst, other]
        for word in (*(f"mos {each.mean[0]:.1f}" for each in compared), question or "explained", profile or "panel"):
            time.sleep(self.seconds)
            yield f"{word} "


@pytest.fixture
def stand_in():
    return StandIn()


@pytest.fixture(scope="module")  # no longer: it holds CPUs
def served(local_ray):
    """The address of Ray Serve with the model that ships."""
    from pipelines.serve.launch import serving

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(Settings(no_auth=True), "127.0.0.1", port) as address:
        yield address


@pytest.fixture
def endpoint():
    """`with endpoint(predictor, keys, **settings) as (address, app)`: the application on a port of this machine."""

    @contextmanager
    def start(predictor=None, keys=(), **settings):
        app = make_app(Settings(**settings), Model(predictor or StandIn()), ThreadPoolExecutor(2), list(keys), Meter())
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=asyncio.run, args=[server.serve()], daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join(10)

    return start
