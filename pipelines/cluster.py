"""How Ray is started, and how many model actors of what size fit on it."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass

# Read by Ray when it is imported: no phoning home, and no rebuilding of the environment in every worker under `uv run`.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.data import DataContext

from sqllm.errors import UsageError

BLOCK_BYTES = 16 << 20  # audio is handed on in blocks of this size, also from within one long recording
STORE_BYTES = (1 << 30) + os.cpu_count() * (64 << 20)  # audio in flight here; a full store makes decoding wait
MODEL_BYTES = 700 << 20  # resident memory of one actor with the default model
CUT_CPUS = 0.5


@dataclass(frozen=True)
class Pool:
    """The model actors of a run."""

    actors: int
    threads: int  # torch threads of each: actors x threads = cores
    device: str
    cpus: float  # what Ray books for each, a fraction: actors that hold every CPU would wait for audio for ever
    gpus: float
    chunks: int  # handed to the model in one call

    @classmethod
    def fit(cls, recordings: int, actors: int | None, device: str) -> Pool:
        """The pool for so many recordings on the cluster that is up. UsageError for a GPU that is not there."""
        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 1), int(have.get("GPU", 0))
        widest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        if device == "cuda" and not gpus:
            raise UsageError("--device cuda, but Ray finds no GPU here: use --device cpu or auto")
        if device == "auto":
            device = "cuda" if gpus else "cpu"
        room = gpus if device == "cuda" else min(int(cpus), int(have.get("memory", 0) // MODEL_BYTES))
        count = actors or max(1, min(room, recordings))
        return cls(
            actors=count,
            threads=max(1, int(min(cpus / count, widest))),
            device=device,
            cpus=math.floor(min(cpus / count, widest) / 2 * 100) / 100,
            gpus=0 if device == "cpu" else 1 / math.ceil(count / gpus),
            chunks=16 if device == "cuda" else 4,
        )


def start_ray(verbose: bool = False) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start Ray on this machine. Silent unless `verbose`."""
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "local")
        local = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == "local" else {}
        level = logging.INFO if verbose else logging.ERROR
        ray.init(address=address, log_to_driver=verbose, logging_level=level, **local)
    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    context.target_max_block_size = BLOCK_BYTES
    if not verbose:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
