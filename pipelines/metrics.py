"""What a job tells Prometheus while it runs, through Ray: rows by status, audio seconds, seconds of work by stage.

Every node of a cluster serves them, with Ray's own, at its metrics port, as `ray_sqllm_...`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from ray.util.metrics import Counter

COUNTERS = {
    "sqllm_rows": ("Rows of scores, a row for each recording and channel.", "status"),
    "sqllm_audio_seconds": ("Seconds of audio of the recordings that are done.", None),
    "sqllm_windows": ("Windows of 10 s that the model was given.", None),
    "sqllm_stage_seconds": ("Seconds of work: decoding and cutting, scoring, writing.", "stage"),
}


@cache
def counter(name: str) -> Counter:
    """Made on first use: a counter belongs to the process that counts."""
    description, tag = COUNTERS[name]
    return Counter(name, description, tag_keys=(tag,) if tag else None)


def count(rows: Sequence[dict]) -> None:
    """Count all rows of one recording."""
    for row in rows:
        counter("sqllm_rows").inc(1, {"status": row["status"]})
    if seconds := max(row.get("duration_s") or 0.0 for row in rows):
        counter("sqllm_audio_seconds").inc(seconds)


@contextmanager
def stage(name: str, windows: int = 0) -> Iterator[None]:
    """Count the seconds that are spent within as work of a stage: cut, score or write."""
    start = time.perf_counter()
    try:
        yield
    finally:
        counter("sqllm_stage_seconds").inc(time.perf_counter() - start, {"stage": name})
        if windows:
            counter("sqllm_windows").inc(windows)


def staged(name: str, things: Iterable) -> Iterator:
    """The same things; the seconds that it takes to make them count as work of a stage."""
    things = iter(things)
    while True:
        with stage(name):
            thing = next(things, things)
        if thing is things:
            return
        yield thing
