"""`sqllm train`: the loop of `sqllm.training` in the workers of Ray Train, watched in MLflow.

Checkpoints go to `storage` (a folder that all machines see, or s3://...). A worker that dies is replaced, and all go on
from the last checkpoint, in the same MLflow run. `out/run.json` remembers the run for `--resume`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import ray
from ray import train as ray_train
from ray.train.torch import TorchTrainer

from pipelines.cluster import start_ray
from pipelines.tracking import Run, tracked
from sqllm import training
from sqllm.errors import UsageError
from sqllm.model.config import ModelConfig
from sqllm.training import features
from sqllm.training.settings import Settings

FAILURES = 3  # of workers, before the run gives up
KEPT = 2  # checkpoints
MODEL = "model"  # folder of the last checkpoint


def train(
    corpus: Path, bases: Path, out: Path, settings: Settings, workers: int = 1, device: str = "auto",
    storage: str | None = None, resume: bool = False, verbose: bool = False,
    watch: Callable[[str, int, int, str], None] = lambda stage, done, of, figures: None,
) -> Path:  # fmt: skip
    """Train with so many workers into the model directory `out`, and return it.

    `watch(stage, done, of, figures)` is told how it goes. UsageError where corpus, base or cluster do not do, where
    `out` holds a run already and `resume` is not asked for, or the other way round.
    """
    config = training.load_config(corpus, bases)
    note = out / "run.json"
    if resume and not note.is_file():
        raise UsageError(f"nothing to resume in {out}: it has no run.json")
    if note.is_file() and not resume:
        raise UsageError(f"{out} holds a run already: --resume goes on with it, or give another --out")
    start_ray(verbose)
    have = ray.cluster_resources()
    if device == "cuda" and not have.get("GPU"):
        raise UsageError("--device cuda, but Ray finds no GPU here: use --device cpu or auto")
    gpu = device == "cuda" or (device == "auto" and have.get("GPU", 0) >= workers)
    if workers > have.get("GPU" if gpu else "CPU", 0):
        raise UsageError(
            f"--workers {workers}, but Ray finds {have.get('GPU' if gpu else 'CPU', 0):g} {'GPU' if gpu else 'CPU'}s"
        )
    out.mkdir(parents=True, exist_ok=True)
    key = features.features_key(config, bases)
    _prepare(bases, corpus, key, watch)
    if resume:
        known = json.loads(note.read_text())
    else:
        place = storage if storage and "://" in storage else str(Path(storage or out / "checkpoints").absolute())
        known = {"name": f"train-{time.strftime('%Y%m%d-%H%M%S')}", "storage": place, "run_id": None}
    with tracked(out, f"train {out.name}", known["run_id"]) as run:
        if not resume:
            run.settings({**asdict(settings), "corpus": corpus, "base": bases, "workers": workers})
            note.write_text(json.dumps(known | {"run_id": run.id}, indent=2) + "\n")
        board = Board.options(num_cpus=0).remote()
        job = {"corpus": str(corpus.absolute()), "bases": str(bases.absolute()), "settings": asdict(settings),
               "device": "cuda" if gpu else "cpu", "board": board}  # fmt: skip
        fitted = ray.remote(num_cpus=0)(_fit).remote(job, workers, gpu, known["name"], known["storage"], verbose)
        of = {"listen": settings.listen_steps, "scores": settings.score_steps, "words": settings.word_steps}
        try:
            done = []
            while not done:
                done, _ = ray.wait([fitted], timeout=1)
                for stage, line in ray.get(board.take.remote()):
                    _log(run, stage, line)
                    watch(stage, line["step"], of[stage], f"loss {line['loss']:.3f}")
            checkpoint = ray.get(fitted)
        except ray.exceptions.RayTaskError as error:
            raise UsageError(f"training failed: {_reason(error)}") from None
        except BaseException:  # the user's Ctrl-C: on a cluster, nothing else would end the workers
            ray.cancel(fitted, force=True)
            raise
        with checkpoint.as_directory() as folder:
            shutil.copytree(Path(folder) / MODEL, out, dirs_exist_ok=True)
    return out


def _fit(job: dict, workers: int, gpu: bool, name: str, storage: str, verbose: bool):
    """Drive Ray Train, in a process of its own so that the user's terminal stays quiet; the last checkpoint."""
    if not verbose:
        logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer = TorchTrainer(
        _work,
        train_loop_config=job,
        scaling_config=ray_train.ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=ray_train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray_train.FailureConfig(max_failures=FAILURES),
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=KEPT),
        ),
    )
    return trainer.fit().checkpoint


def _work(job: dict) -> None:
    """One worker."""
    import torch

    if job["device"] == "cpu":
        torch.set_num_threads(max(1, os.cpu_count() // ray_train.get_context().get_local_world_size()))
    first = ray_train.get_context().get_world_rank() == 0
    with tempfile.TemporaryDirectory() as folder:
        if last := ray_train.get_checkpoint():
            last.to_directory(folder)

        def tell(stage: str, line: dict, checkpoint: Path | None) -> None:
            if first:
                job["board"].put.remote(stage, line)
            saved = ray_train.Checkpoint.from_directory(folder) if checkpoint and first else None
            ray_train.report(line, checkpoint=saved)

        corpus, bases, settings = Path(job["corpus"]), Path(job["bases"]), Settings(**job["settings"])
        model = training.train(corpus, bases, Path(folder) / MODEL, settings, job["device"], tell, Path(folder))
        ray_train.report({}, checkpoint=ray_train.Checkpoint.from_directory(model.parent) if first else None)


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


def _log(run: Run, stage: str, line: dict) -> None:
    run.figures({f"{stage}.{k}": v for k, v in line.items() if k != "step"}, step=line["step"])


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _prepare(bases: Path, corpus: Path, key: str, watch: Callable) -> None:
    """Features that are missing, a task for each shard."""
    todo = features.missing(corpus, key)
    tasks = [_features.remote(bases.absolute(), shard.absolute(), key) for shard in todo]
    left = tasks
    while left:
        ready, left = ray.wait(left)
        ray.get(ready)
        watch("features", len(tasks) - len(left), len(tasks), "")


@ray.remote(num_cpus=1, max_retries=3)
def _features(bases: Path, shard: Path, key: str) -> None:
    import torch

    torch.set_num_threads(1)
    features.prepare_shard(_encoder(bases), shard, key)


@cache
def _encoder(bases: Path):
    """Loaded once in each worker."""
    return features.load_encoder(ModelConfig.load(bases), bases)
