"""`sqllm bench pipeline`: the whole job beside the bare `Predictor`, on the same recordings in one run.

Both decode, cut and score. The bare one runs on half of the recordings before the job and on half after it, so that a
machine that gets slower or faster meanwhile is unfair to neither.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

from pipelines import metrics
from pipelines.cluster import Pool, start_ray
from pipelines.score import Settings, load_predictor, score
from pipelines.sources import find
from pipelines.terminal import only_our_stderr
from sqllm.audio import RATE
from sqllm.audio.windows import WINDOW_S
from sqllm.bench import speech_like
from sqllm.errors import UsageError
from sqllm.recording import cut

VARIANTS = 16
LOOK_S = 0.5
TOLD_S = 60.0  # the longest that Ray's workers take to report their metrics
TICK = os.sysconf("SC_CLK_TCK")


def make(folder: Path, recordings: int, seconds: float) -> list[str]:
    """So many mu-law recordings at 8 kHz."""
    need = int(seconds * RATE)
    sounds = [np.resize(sound, need)[::2] for sound in speech_like(VARIANTS)]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{n:06d}.wav" for n in range(recordings)]
    for n, file in enumerate(files):
        soundfile.write(file, sounds[n % VARIANTS], RATE // 2, subtype="ULAW")
    return [str(file) for file in files]


def bare(files: Sequence[str], model: str, pool: Pool) -> Counter:
    """`files` scored by as many processes as the job has actors, without Ray.

    Counts windows, the seconds that it took (`wall`), and the sum over processes of the seconds in each stage.
    """
    spawn = get_context("spawn")
    together, results = spawn.Barrier(pool.actors, timeout=600), spawn.Queue()
    shares = [files[n :: pool.actors] for n in range(pool.actors)]
    processes = [spawn.Process(target=_bare, args=(share, model, pool, together, results)) for share in shares]
    for process in processes:
        process.start()
    found = [results.get(timeout=3600) for _ in processes]
    for process in processes:
        process.join()
    wall = max(one.pop("wall") for one in found)
    return sum(found, Counter(wall=wall))


def _bare(files: Sequence[str], model: str, pool: Pool, together, results) -> None:
    import torch

    from sqllm import Predictor

    torch.set_num_threads(pool.threads)
    predictor = Predictor.load(model=model, device=pool.device)
    counts = Counter()
    together.wait()
    start = time.perf_counter()
    for first in range(0, len(files), pool.chunks):
        began = time.perf_counter()
        chunks = [chunk for file in files[first : first + pool.chunks] for chunk in cut(file)]
        halfway = time.perf_counter()
        predictor.score_chunks(chunks)
        counts.update(cut=halfway - began, score=time.perf_counter() - halfway)
        counts["windows"] += sum(len(chunk.counts) for chunk in chunks)
    counts["wall"] = time.perf_counter() - start
    results.put(counts)


def job(
    folder: str, out: str, settings: Settings, windows: int, load: Callable = load_predictor
) -> tuple[Counter, Counter]:
    """The whole job, on a Ray that has done nothing before: counts as of `bare`, with `ray`, `model` and `end` (seconds
    before and after the scoring), and CPU seconds by kind of process. `windows` is how many there are to score."""
    times, first, last = {"looked": 0.0}, {}, {}

    def watch(stage, totals) -> None:
        times.setdefault(stage, time.time())
        if stage == "scoring":
            times["last"] = time.time()
            if times["last"] - times["looked"] > LOOK_S or totals.done == totals.recordings:
                times["looked"] = times["last"]
                seen = cpu_seconds()
                for process in seen.keys() - first.keys():  # those that come later count from their beginning
                    first[process] = 0.0 if last else seen[process][1]
                last.update(seen)

    start = time.time()
    recordings = find([folder])
    with only_our_stderr():
        totals = score(recordings, out, settings, load, watch)
    counts = Counter(ray=times["loading the model"] - start, model=totals.ready_at - times["loading the model"])
    counts.update(wall=times["last"] - totals.ready_at, end=time.time() - times["last"])
    stages = {stage: f"sqllm_stage_seconds {stage}" for stage in ("cut", "score", "write")}
    served, until = {}, time.monotonic() + TOLD_S
    while served.get("sqllm_windows", 0) < windows or not set(stages.values()) <= served.keys():
        if time.monotonic() > until:
            raise UsageError(f"Ray's metrics did not come within {TOLD_S:.0f} s: is this machine too busy to measure?")
        time.sleep(0.5)
        served = metrics.served()
    counts["windows"] = windows
    counts.update({stage: served[name] for stage, name in stages.items()})
    spent = Counter()
    for process, (kind, seconds) in last.items():
        spent[kind] += seconds - first[process]
    return counts, spent


def cpu_seconds() -> dict[int, tuple[str, float]]:
    """Of this process and all below it: what it is for the job, and its CPU time until now."""
    all_of_them = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()
            title = Path("/proc", process, "cmdline").read_text()
        except OSError:  # it has just ended
            continue
        all_of_them[int(process)] = int(fields[1]), title, (int(fields[11]) + int(fields[12])) / TICK
    ours, here = {}, os.getpid()
    for process, (_, title, seconds) in all_of_them.items():
        above = process
        while above in all_of_them and above != here:
            above = all_of_them[above][0]
        if above == here:
            ours[process] = _kind(title, process == here), seconds
    return ours


def _kind(title: str, driver: bool) -> str:
    if driver:
        return "driver"
    if title.startswith("ray::MapWorker"):
        return "model actors"
    return "decoding workers" if title.startswith("ray::") else "Ray's own processes"


def run(recordings: int, seconds: float, settings: Settings) -> None:
    """Print windows/s of both, start-up, seconds by stage, and whose the CPU time is."""
    import ray

    os.environ.update(RAY_worker_niceness="0")  # Ray's workers yield to other programs; the bare Predictor does not
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(folder), recordings, seconds)
        start_ray()
        pool = Pool.fit(recordings, settings.actors, settings.device)
        ray.shutdown()
        before = bare(files[::2], settings.model, pool)
        windows = recordings * max(1, math.ceil(seconds / WINDOW_S))
        counts, spent = job(folder, os.path.join(folder, "out"), settings, windows)
        ray.shutdown()
        alone = before + bare(files[1::2], settings.model, pool)
    show(recordings, seconds, alone, counts, spent, pool)


def show(recordings: int, seconds: float, alone: Counter, counts: Counter, spent: Counter, pool: Pool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(f"{recordings:,} recordings of {seconds:g} s", "bare Predictor", "whole job")
    for column in table.columns[1:]:
        column.justify = "right"
    rates = [each["windows"] / each["wall"] for each in (alone, counts)]
    table.add_row("windows", *(f"{each['windows']:,.0f}" for each in (alone, counts)))
    table.add_row("windows/s", *(f"{rate:.2f}" for rate in rates))
    table.add_row("x real time", *(f"{rate * seconds * recordings / counts['windows']:.0f}" for rate in rates))
    for stage, words in (("cut", "to decode and cut"), ("score", "to score"), ("write", "to write")):
        table.add_row(f"ms a window {words}", *(f"{1000 * e[stage] / e['windows']:.1f}" for e in (alone, counts)))
    console.print(table)
    have = os.cpu_count() * counts["wall"]
    shares = ", ".join(f"{kind} {100 * cpu / have:.0f} %" for kind, cpu in spent.most_common())
    for line in (
        f"Both on {pool.actors} x {pool.threads} threads, {pool.device}. Ray costs {1 - rates[1] / rates[0]:.1%} of the"
        " bare speed.",
        f"Start-up apart: Ray {counts['ray']:.1f} s, model {counts['model']:.1f} s; after the last recording"
        f" {counts['end']:.1f} s.",
        f"CPU while scoring: {shares}; idle, or other programs, {100 * (1 - spent.total() / have):.0f} %.",
    ):
        console.print(line, highlight=False)
