"""The main job with a stand-in for the model, as a process that a test can kill."""

from __future__ import annotations

import os
import sys

from support.standin import fingerprints, loader

from pipelines import cluster, sink
from pipelines.score import Settings, score
from pipelines.sources import find


def run(address: str, source: str, out: str, pause_s: float, actors: int, said) -> None:
    """On the cluster at `address`. A chunk takes `pause_s`; `out`.log has a line for each that was scored, and `said`
    (the end of a pipe) gets every stage that is reached."""
    os.environ["RAY_ADDRESS"] = address
    sys.stderr = open(f"{out}.errors", "w", buffering=1)  # noqa: SIM115
    sink.PART_S = 0.3
    cluster.SETTLE_S = 1  # what a killed driver had comes back slowly, and there is enough besides
    load = loader(f"{out}.log", pause_s)
    settings = Settings(actors=actors, device="cpu")
    score(find([source]), out, settings, load, lambda stage, _: said.send(stage), fingerprints)
