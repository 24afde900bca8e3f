"""`sqllm corpus simulate`: a rated corpus from clean speech, drawn in parallel on Ray.

A task is a shard. A shard that is there is not drawn again, and one appears whole or not at all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache

import ray

from pipelines.cluster import gpu_share, start_ray
from sqllm.corpus.shards import Shards
from sqllm.corpus.simulate import VERSION, Pool, shards, speakers_of, table
from sqllm.errors import UsageError

NOTE = "simulate.json"  # beside the shards: what they were drawn from


def simulate(
    speech: str, out: str, clips: int, noise: str | None = None, rooms: str | None = None,
    speakers: str | None = None, seed: int = 1, teachers: bool = True, verbose: bool = False,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> int:  # fmt: skip
    """Draw `clips` clips into shards under `out` (a folder, or what pyarrow opens: s3://...); returns shards made.

    `watch(done, of)` is told of every shard. UsageError where speech is missing, or the teachers of mos are.
    """
    place = Shards.open(out, "--out")
    pool = Pool(speech, noise, rooms, speakers_of(speakers))
    if pool.problems:
        more = f", and {len(pool.problems) - 1} more" if len(pool.problems) > 1 else ""
        print(f"sqllm: left out, or not known: {pool.problems[0]}{more}", file=sys.stderr)
    if teachers:
        _panel()  # what is missing is said here, not by a worker
    sources = {"speech": speech, "noise": noise, "rooms": rooms, "speakers": speakers}
    made_with = {name: path and os.path.abspath(path) for name, path in sources.items()}
    _same_corpus(place, out, made_with | {"seed": seed, "panel": teachers, "simulator": VERSION}, clips)
    there = place.files()
    todo = [(name, list(indices)) for name, indices in shards(clips) if name not in there]
    start_ray(verbose)
    shared = ray.put(pool)  # the audio lies in memory once on each machine
    share = gpu_share() if teachers else 0
    task, device = _shard.options(num_gpus=share), teachers and ("cuda" if share else "cpu")
    left = [task.remote(shared, seed, indices, out, name, device) for name, indices in todo]
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


def _same_corpus(place: Shards, out: str, made_with: dict, clips: int) -> None:
    """What lies there was drawn from the same sources; more clips may be asked for now. Its last shard may be filled
    up then: it goes, with its features."""
    before, there = place.note(NOTE), place.names()
    if there and not before:
        raise UsageError(f"{out} holds shards of which nothing says what they were drawn from: give another --out")
    if there:
        before = {"simulator": 1} | before  # the first did not say
        had = before.pop("clips")
        changed = [name for name in made_with if made_with[name] != before.get(name)]
        if changed or had > clips:
            what = f"{changed[0]} {before.get(changed[0])}" if changed else f"{had} clips"
            raise UsageError(f"{out} holds a corpus that was drawn with {what}: give another --out")
        now = dict(shards(clips))
        grown = [name.removesuffix("parquet") for name, indices in shards(had) if now[name] != indices]
        for name in place.files():
            if name.startswith(tuple(grown)):
                place.remove(name)
    place.write_note(NOTE, made_with | {"clips": clips})


@ray.remote(num_cpus=1, max_retries=3)
def _shard(pool: Pool, seed: int, indices: list[int], out: str, name: str, device: str | bool) -> None:
    drawn = table(pool, seed, indices, _panel(device) if device else None)
    Shards.open(out).write(name, drawn, group=1)  # training reads a clip here and there


@cache
def _panel(device: str = "cpu"):
    """Loaded once in each worker."""
    try:
        import torch

        from sqllm.corpus.panel import Panel

        torch.set_num_threads(1)  # a task has one core
        return Panel(device)
    except ImportError as error:
        raise UsageError(
            f"the teachers of mos are not installed ({error.name or error}): `pip install 'sqllm[label]'` and "
            "`pip install --no-deps distillmos xls_r_sqa`, or --no-panel to do without"
        ) from None
