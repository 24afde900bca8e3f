"""`sqllm bench serve`: the endpoint under load, against the bare `Predictor`, on one machine in one run.

A request is a WAV of 10 s, one window. Client, ingress and model share the machine's cores. The bare model, in a
process of Ray's like the one that is served, is measured before and after each load: a machine is not always as fast.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import ray
import soundfile
import torch
from rich.console import Console
from rich.table import Table

from pipelines.serve.launch import serving
from pipelines.serve.settings import Settings
from sqllm.audio import RATE
from sqllm.bench import speech_like

OVERLOAD = 2  # times max_requests


@dataclass
class Load:
    """What clients saw."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)  # of the answers with a score
    statuses: Counter = field(default_factory=Counter)
    bare: float = float("nan")  # windows per second of the bare model around it

    @property
    def rate(self) -> float:
        return len(self.took) / self.seconds

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.took, q)) if self.took else float("nan")


class Client:
    def __init__(self, address: str, session: aiohttp.ClientSession):
        self.url, self.session = f"{address}/v1/score", session
        sound = io.BytesIO()
        soundfile.write(sound, speech_like(1)[0], RATE, format="WAV")
        self.wav = sound.getvalue()

    async def ask(self, load: Load) -> None:
        form = aiohttp.FormData()
        form.add_field("file", self.wav, filename="call.wav")
        start = time.perf_counter()
        try:
            async with self.session.post(self.url, data=form) as answer:
                await answer.read()
                status, wait = answer.status, float(answer.headers.get("Retry-After", 0))
        except (aiohttp.ClientError, TimeoutError) as error:
            status, wait = type(error).__name__, 0.0
        load.statuses[status] += 1
        if status == 200:
            load.took.append(time.perf_counter() - start)
        await asyncio.sleep(wait)

    async def at_once(self, clients: int, seconds: float) -> Load:
        """So many clients, each with its next request as soon as it has its answer."""
        load, start = Load(), time.perf_counter()

        async def client():
            while time.perf_counter() < start + seconds:
                await self.ask(load)

        await asyncio.gather(*(client() for _ in range(clients)))
        load.seconds = time.perf_counter() - start
        return load

    async def at_rate(self, rate: float, seconds: float, even: bool) -> Load:
        """Requests that come at a rate, evenly or by chance, whatever becomes of those before."""
        load, start, chance, asked, at = Load(), time.perf_counter(), random.Random(0), [], 0.0
        while at < seconds:
            await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
            asked.append(asyncio.create_task(self.ask(load)))
            at += 1 / rate if even else chance.expovariate(rate)
        await asyncio.gather(*asked)
        load.seconds = time.perf_counter() - start
        return load


class Bare:
    """A `Predictor` that nobody serves."""

    def __init__(self, model: str, device: str, seconds: float):
        import torch

        from sqllm import Predictor

        torch.set_num_threads(os.cpu_count())
        self.predictor, self.seconds = Predictor.load(model, device), seconds
        self.windows = speech_like(2 * self.predictor.batch)
        self.predictor.score_windows(self.windows)

    def rate(self) -> float:
        """Windows per second."""
        done, start = 0, time.perf_counter()
        while time.perf_counter() < start + self.seconds:
            self.predictor.score_windows(self.windows)
            done += len(self.windows)
        return done / (time.perf_counter() - start)


def run(model: str, device: str, clients: list[int], seconds: float) -> None:
    """Print requests per second and latencies at each number of clients, at half load and under overload."""
    gpu = device != "cpu" and torch.cuda.is_available()
    copies = 1 if gpu else os.cpu_count()  # of one thread each: threads of one copy wait for the one that is disturbed
    settings = Settings(model=model, device=device, min_replicas=copies, max_replicas=copies, no_auth=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with serving(settings, "127.0.0.1", port) as address:
        bare = ray.remote(num_cpus=0)(Bare).remote(model, device, seconds / 2)
        loads, same = asyncio.run(measured(address, settings, clients, seconds, lambda: ray.get(bare.rate.remote())))
    _print(loads, same, clients, copies)


async def measured(
    address: str, settings: Settings, clients: list[int], seconds: float, bare: Callable[[], float]
) -> tuple[dict[str, Load], bool]:
    """What clients saw, by kind of load, and whether all replicas are still the same; `bare` is windows per second."""
    timeout = aiohttp.ClientTimeout(total=settings.upload_timeout_s + 2 * settings.timeout_s)
    loads: dict[str, Load] = {}
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        client = Client(address, session)
        place = replicas()
        await client.at_once(2, 1.0)  # warm
        before = await asyncio.to_thread(bare)

        async def note(name: str, under_way: Awaitable[Load]) -> Load:
            nonlocal before
            loads[name] = await under_way
            after = await asyncio.to_thread(bare)
            loads[name].bare, before = (before + after) / 2, after
            return loads[name]

        at_once = [await note(f"{n} at once", client.at_once(n, seconds)) for n in clients]
        half = max(load.rate for load in at_once) / 2
        await note("half load, evenly", client.at_rate(half, seconds, even=True))
        await note("half load, by chance", client.at_rate(half, seconds, even=False))
        many = OVERLOAD * settings.max_requests
        await note(f"overload, {many} at once", client.at_once(many, seconds))
        return loads, replicas() == place


def replicas() -> set[str]:
    """The names of Serve's processes: one that dies comes back under another."""
    return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if "#" in actor["name"]}


def _print(loads: dict[str, Load], same: bool, clients: list[int], copies: int) -> None:
    console = Console(width=120, highlight=False)
    table = Table("requests of 10 s", "answered/s", "bare/s", "share", "p50 ms", "p95 ms", "p99 ms", "answers")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, load in loads.items():
        times = [f"{1000 * load.percentile(q):.0f}" for q in (50, 95, 99)]
        said = ", ".join(f"{count} x {status}" for status, count in sorted(load.statuses.items(), key=str))
        table.add_row(name, f"{load.rate:.2f}", f"{load.bare:.2f}", f"{load.rate / load.bare:.0%}", *times, said)
    console.print(table)
    console.print(f"bare/s: windows of the bare Predictor, in batches, before and after; {copies} copies served")
    single = loads[f"{clients[0]} at once"].percentile(50)
    for kind in ("evenly", "by chance"):
        times = loads[f"half load, {kind}"].percentile(95) / single
        console.print(f"half load, {kind}: p95 is {times:.2f} times the median at {clients[0]} at once")
    console.print("no replica was lost" if same else "a replica was lost")
