"""What a job tells Prometheus while it runs, through Ray: rows by status, audio seconds, seconds of work by stage.

Every node of a cluster serves them, with Ray's own, at its metrics port, as `ray_sqllm_...`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from urllib.request import urlopen

import ray
from ray.util.metrics import Counter

COUNTERS = {
    "sqllm_rows": ("Rows of scores, a row for each recording and channel.", "status"),
    "sqllm_audio_seconds": ("Seconds of audio of the recordings that are done.", None),
    "sqllm_windows": ("Windows of 10 s that the model was given.", None),
    "sqllm_stage_seconds": ("Seconds of work: decoding and cutting, scoring, writing.", "stage"),
}
SAMPLE = re.compile(r"ray_(?P<name>sqllm_\w+?)(?:_total)?\{(?P<labels>.*)\} (?P<value>\S+)")
LABEL = re.compile(r'\b(?:status|stage)="(\w+)"')


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


def served() -> dict[str, float]:
    """What Ray serves of ours now, on all nodes: `sqllm_windows`, `sqllm_rows ok`, ... Workers report now and then."""
    found: dict[str, float] = {}
    for node in filter(lambda node: node["Alive"], ray.nodes()):
        with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        for line in lines:
            if match := SAMPLE.fullmatch(line):
                label = LABEL.search(match["labels"])
                name = f"{match['name']} {label[1]}" if label else match["name"]
                found[name] = found.get(name, 0.0) + float(match["value"])
    return found
