"""`sqllm corpus simulate`: a rated corpus from clean speech, drawn in parallel on Ray.

A task is a shard. A shard that is there is not drawn again, and one appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import ray

from pipelines.cluster import start_ray
from sqllm.corpus.shards import Shards
from sqllm.corpus.simulate import Pool, shards, speakers_of, table
from sqllm.errors import UsageError


def simulate(
    speech: str, out: str, clips: int, noise: str | None = None, rooms: str | None = None,
    speakers: str | None = None, seed: int = 1, teachers: bool = True, verbose: bool = False,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> int:  # fmt: skip
    """Draw `clips` clips into shards under `out` (a folder, or what pyarrow opens: s3://...); returns shards made.

    `watch(done, of)` is told of every shard. UsageError where speech is missing, or the teachers of mos are.
    """
    there = Shards.open(out, "--out").files()
    todo = [(name, list(indices)) for name, indices in shards(clips) if name not in there]
    pool = Pool(speech, noise, rooms, speakers_of(speakers))
    if teachers:
        _panel()  # what is missing is said here, not by a worker
    start_ray(verbose)
    shared = ray.put(pool)  # the audio lies in memory once on each machine
    left = [_shard.remote(shared, seed, indices, out, name, teachers) for name, indices in todo]
    done = len(shards(clips)) - len(todo)
    watch(done, len(shards(clips)))
    while left:
        ready, left = ray.wait(left)
        try:
            ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            for task in left:
                ray.cancel(task)
            raise error.cause from None
        done += len(ready)
        watch(done, len(shards(clips)))
    return len(todo)


@ray.remote(num_cpus=1, max_retries=3)
def _shard(pool: Pool, seed: int, indices: list[int], out: str, name: str, teachers: bool) -> None:
    drawn = table(pool, seed, indices, _panel() if teachers else None)
    Shards.open(out).write(name, drawn)


@cache
def _panel():
    """Loaded once in each worker."""
    try:
        import torch

        from sqllm.corpus.panel import Panel

        torch.set_num_threads(1)  # a task has one core
        return Panel()
    except ImportError as error:
        raise UsageError(
            f"the teachers of mos are not installed ({error.name}): `pip install 'sqllm[label]'` and "
            "`pip install --no-deps distillmos xls_r_sqa`, or --no-panel to do without"
        ) from None
