"""What training hears, through Ray: shards and features are made in parallel, the parts of steps drawn by Ray Data.

A row of the dataset is a part of a step (`sqllm.training.loop`), not a clip: the number of the part settles which clips
are drawn, and a reader reads, decodes and measures them wherever the shards lie, ahead of the worker that trains. A
split of the clips among the workers would drop tail rows and make what is learned depend on how many there are.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipelines.cluster import gpu_share
from sqllm.corpus.shards import Shards
from sqllm.model.config import ModelConfig
from sqllm.training import corpora, features

PARTS = 4  # in a block of the dataset
PAUSE_S = 0.02


def prepare(
    names: Sequence[str], place: str, columns: Mapping[str, str], only: Mapping[str, str], config: ModelConfig,
    bases: Path | None, watch: Callable, device: str = "cpu",
) -> list[str]:  # fmt: skip
    """Make shards of rated corpora and features of all, where they are missing; where the shards are."""
    places, todo = corpora.find(names, place, columns, only)
    left = [_shard.remote(*task) for task in todo]
    while left:
        ready, left = ray.wait(left)
        ray.get(ready)
        watch("corpus", len(todo) - len(left), len(todo), "")
    if key := features.features_key(config, bases):
        missing = [(shards, name) for shards in map(Shards.open, places) for name in features.missing(shards, key)]
        if missing:
            _make_features(missing, config, bases, key, device, watch)
    return places


@ray.remote(num_cpus=1, max_retries=3)
def _shard(shards: Shards, name: str, recordings: list[dict]) -> None:
    corpora.make(shards, name, recordings)


def _make_features(
    missing: list[tuple[Shards, str]], config: ModelConfig, bases: Path | None, key: str, device: str, watch: Callable
) -> None:
    """By actors and not by tasks: they go, with what they hold of a GPU, before training starts there."""
    share = gpu_share() if device == "cuda" else 0
    most = min(len(missing), max(1, int(ray.cluster_resources().get("CPU", 1))))
    numbers = ray.data.from_items(range(len(missing)), override_num_blocks=len(missing))
    made = numbers.map(
        FeatureMaker,
        fn_constructor_args=(missing, config, bases, key, device),
        compute=ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=1,
        num_gpus=share,
    )
    for done, _ in enumerate(made.iter_rows(), 1):
        watch("features", done, len(missing), "")


class FeatureMaker:
    """Makes the features of shards."""

    def __init__(self, missing: list[tuple[Shards, str]], config, bases: Path | None, key: str, device: str):
        import torch

        torch.set_num_threads(1)
        self.missing, self.key = missing, key
        self.encoder = features.load_encoder(config, bases, device)

    def __call__(self, row: dict) -> dict:
        features.prepare_shard(self.encoder, *self.missing[row["item"]], self.key)
        return row


class Reader:
    """Draws the parts of steps."""

    def __init__(self, draw: Callable):
        import torch

        torch.set_num_threads(1)
        self.draw = draw

    def __call__(self, row: dict) -> dict:
        drawn = self.draw(np.random.default_rng([row["seed"], row["step"], row["part"]]))
        return {"drawn": pickle.dumps(drawn)}


class Pause(ExecutionCallback):
    """Where readers are ahead until the store is full, Ray Data's own thread in the worker asks without rest whether it
    still is (Ray 2.60): it took most of a core, and the interpreter's lock, and steps took three times as long."""

    def on_execution_step(self, executor) -> None:
        time.sleep(PAUSE_S)


def ahead(draw: Callable, numbers: Iterable[tuple[int, int, int]], readers: int) -> Iterator:
    """The parts of steps in their order, drawn ahead by so many readers: what `loop.fit` takes as `load`.

    Readers book no CPU: the workers that wait for them may have booked all.
    """
    rows = [dict(zip(("seed", "step", "part"), number, strict=True)) for number in numbers]
    if not rows:
        return
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    if Pause not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Pause)
    parts = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / PARTS))
    pool = ActorPoolStrategy(size=readers)
    parts = parts.map(Reader, fn_constructor_args=(draw,), compute=pool, num_cpus=0)
    for row in parts.iter_rows():
        yield pickle.loads(row["drawn"])
