"""How Ray is started, and how many model actors of what size fit on it."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from dataclasses import dataclass

# Read by Ray when it is imported: no phoning home, and no rebuilding of the environment in every worker under `uv run`.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.data import DataContext
from ray.util import placement_group, remove_placement_group

from sqllm.errors import UsageError

BLOCK_BYTES = 16 << 20  # audio is handed on in blocks of this size, also from within one long recording
STORE_BYTES = (1 << 30) + os.cpu_count() * (64 << 20)  # audio in flight here; a full store makes decoding wait
MODEL_BYTES = 700 << 20  # resident memory of one actor with the default model
CUT_CPUS = 0.5
LEAST_SHARE = 1 / 16  # of a GPU: every process that uses it takes half a gigabyte for itself
SETTLE_S = 10
MACHINES_S = 900  # how long a run waits for the machines that it asks an autoscaler for


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
        """The pool for so many recordings on what is free of the cluster, which is brought up for so many actors.

        What it books fits beside what others have booked: a run that could not start would wait for ever, in silence.
        UsageError where no GPU or CPU is there, or none is free.
        """
        if actors:
            bring_up(actors, device)
        have = ray.cluster_resources()
        if device == "cuda" and not have.get("GPU"):
            raise UsageError("--device cuda, but Ray finds no GPU here: use --device cpu or auto")
        if not have.get("CPU"):
            raise UsageError("this Ray cluster has no CPUs now: --actors N has its autoscaler start machines")
        if device == "auto":
            device = "cuda" if have.get("GPU") else "cpu"
        free = _free(have)
        cpus, gpus = free["CPU"], int(free["GPU"])
        if device == "cuda" and not gpus:
            raise UsageError(
                f"other jobs hold the {have['GPU']:g} GPUs of this Ray cluster: wait for them, use --device cpu, or"
                " have its autoscaler start machines with --actors N"
            )
        if cpus < 2 * CUT_CPUS:
            raise UsageError(
                f"other jobs hold {have['CPU'] - cpus:g} of the {have['CPU']:g} CPUs of this Ray cluster, and a run"
                f" wants {2 * CUT_CPUS:g}: wait for them, or have its autoscaler start machines with --actors N"
            )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if device == "cuda":  # the CPUs of other machines are no use to an actor with a GPU
            nodes = [node for node in nodes if node.get("GPU")]
            cpus = min(cpus, min(node.get("CPU", 0) / node["GPU"] for node in nodes) * gpus)
        widest = max(node.get("CPU", 0) for node in nodes)
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


def _free(have: dict) -> dict[str, float]:
    """What no job has booked. What an earlier run in this process is still giving back is waited for."""
    until = time.monotonic() + SETTLE_S
    while True:
        left = ray.available_resources()
        free = {kind: round(left.get(kind, 0), 2) for kind in ("CPU", "GPU")}
        if all(free[kind] >= have.get(kind, 0) for kind in free) or time.monotonic() > until:
            return free
        time.sleep(0.1)


def gpu_share() -> float:
    """Of a GPU, for each of many tasks that take a CPU and use a GPU now and then; 0 where none is free."""
    if ray.available_resources().get("GPU", 0) < 1:
        return 0.0
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    return max((min(1.0, max(node["GPU"] / node.get("CPU", 1), LEAST_SHARE)) for node in nodes), default=0.0)


def bring_up(actors: int, device: str) -> None:
    """Have the autoscaler of the cluster of RAY_ADDRESS make room for so many actors, and wait for it.

    Ends after MACHINES_S at the latest, with the machines that have come until then.
    """
    if os.environ.get("RAY_ADDRESS", "local") == "local":
        return
    kind = "GPU" if device == "cuda" else "CPU"
    free = ray.available_resources().get(kind, 0)
    if free >= actors:
        return
    waits = f"waiting up to {MACHINES_S // 60} minutes for {actors} {kind}s, of which {free:g} are free"
    print(f"sqllm: {waits}: stop it and give a smaller --actors to start at once", file=sys.stderr)
    # not request_resources(): a cluster has one such request, and Ray Data of any job replaces it every 20 seconds
    room = placement_group([{kind: 1}] * actors)
    try:
        until = time.monotonic() + MACHINES_S
        while not room.wait(1) and time.monotonic() < until:
            pass
    finally:
        remove_placement_group(room)


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
