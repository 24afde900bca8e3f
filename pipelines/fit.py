"""Ray Train's part of `pipelines.train`. What is heavy is imported in the workers alone: Ray starts two processes
before them, one after the other, which need none of it."""

from __future__ import annotations

import logging
import os
import tempfile
from functools import partial
from pathlib import Path

import ray
from ray import train as ray_train
from ray.train.torch import TorchTrainer

FAILURES = 3  # of workers, before the run gives up
KEPT = 2  # checkpoints
TRAINED = "trained"  # folder of the last checkpoint: configuration and trained weights
REPORTS_S = "0.2"  # a worker's next report waits until Ray has looked for the last one: every 2 s, were it not told
READERS = {"cpu": 1, "cuda": 8}  # of each worker


def fit(job: dict, workers: int, name: str, storage: str, verbose: bool):
    """Drive Ray Train, in a process of its own so that the user's terminal stays quiet; the last checkpoint."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", REPORTS_S)
    if not verbose:
        logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer = TorchTrainer(
        work,
        train_loop_config=job,
        scaling_config=ray_train.ScalingConfig(num_workers=workers, use_gpu=job["device"] == "cuda"),
        run_config=ray_train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray_train.FailureConfig(max_failures=FAILURES),
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=KEPT),
        ),
    )
    return trainer.fit().checkpoint


def work(job: dict) -> None:
    """One worker."""
    import torch

    from pipelines import ingest
    from sqllm import training
    from sqllm.corpus.shards import Shards
    from sqllm.model import store
    from sqllm.model.config import ModelConfig
    from sqllm.training.settings import Settings

    if job["device"] == "cpu":
        torch.set_num_threads(max(1, os.cpu_count() // ray_train.get_context().get_local_world_size()))
    first = ray_train.get_context().get_world_rank() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if last := ray_train.get_checkpoint():
            last.to_directory(name)

        def tell(stage: str, line: dict, checkpoint: Path | None) -> None:
            if first:
                job["board"].put.remote(stage, line)
            saved = ray_train.Checkpoint.from_directory(name) if checkpoint and first else None
            ray_train.report(line, checkpoint=saved)

        shards, config = [Shards.open(place) for place in job["places"]], ModelConfig(**job["config"])
        bases, settings, device = job["bases"] and Path(job["bases"]), Settings(**job["settings"]), job["device"]
        load = partial(ingest.ahead, readers=READERS[device])
        model = training.learn(shards, config, bases, folder, settings, device, tell, load)
        store.save_trained(model, folder / TRAINED)
        ray_train.report({}, checkpoint=ray_train.Checkpoint.from_directory(name) if first else None)


@ray.remote
class Board:
    """Where the first worker leaves its figures for the driver, which alone speaks to MLflow."""

    def __init__(self):
        self.lines: list[tuple[str, dict]] = []

    def put(self, stage: str, line: dict) -> None:
        self.lines.append((stage, line))

    def take(self) -> list[tuple[str, dict]]:
        lines, self.lines = self.lines, []
        return lines
