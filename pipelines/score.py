"""The main job: every recording to its scores, with Ray Data.

    what has no scores yet -> cut (CPU tasks) -> Scorer (a pool of actors, a model in each) -> rows (driver) -> Parquet

Audio travels between the stages as pickled `Chunk`s, block by block, so that neither one long recording nor many of
them fill the memory. The driver sees no audio: it joins the scored chunks of a recording and holds no more than the
recordings in flight. It alone writes, so that what it has written is what another run need not do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipelines import manifest, metrics, resume
from pipelines.cluster import CUT_CPUS, Pool, start_ray
from pipelines.journal import Journal
from pipelines.lease import only_writer
from pipelines.sink import Sink, commit, row_schema, writing
from pipelines.stages import Part, Scorer, cut_recordings, joined, rows_of, unpacked
from pipelines.summary import Totals, write_summary
from sqllm import storage
from sqllm.audio.draw import kept
from sqllm.errors import AudioError, UsageError
from sqllm.recording import unopened

PASSES = 3  # over recordings that got lost with machines


@dataclass(frozen=True)
class Settings:
    """How to score; the same names as the options of `sqllm score`."""

    model: str = "embedded"
    profile: str | None = None
    explain: str = "never"
    windows_per_call: int | None = None  # of a channel; None: all
    until_se: float | None = None
    level: float | None = None  # dBov, active speech level at which recordings are judged; None: their own
    actors: int | None = None  # None: one a core, or a GPU, but no more than there are recordings
    device: str = "auto"
    verbose: bool = False

    def partition(self, fingerprint: str) -> str:
        """The folder of the scores that can be compared: another model or setting has another."""
        asked = {"profile": self.profile, "windows": self.windows_per_call, "se": self.until_se}
        asked["level"] = f"{self.level:g}" if self.level else None
        asked["explain"] = None if self.explain == "never" else self.explain.replace("=", "-")
        words = [f"{name}-{value}" for name, value in asked.items() if value]
        return "_".join([f"fingerprint={fingerprint}", *words])


def load_predictor(model: str, device: str, threads: int):
    """What runs in each actor; the driver needs no torch."""
    import torch

    from sqllm import Predictor

    torch.set_num_threads(threads)
    return Predictor.load(model=model, device=device)


def model_fingerprints(model: str) -> set[str]:
    from sqllm import Predictor

    return Predictor.fingerprints(model)


def score(
    recordings: pa.Table,
    out: str | os.PathLike,
    settings: Settings,
    load: Callable = load_predictor,
    watch: Callable[[str, Totals], None] = lambda stage, totals: None,
    fingerprints: Callable[[str], set[str]] = model_fingerprints,
) -> Totals:
    """Score what of the table of `sources.find` has no scores in `out/scores/` yet, and return the counts of all.

    `out` is a folder or a URI. `load(model, device, threads)` makes the predictor of an actor, `fingerprints(model)`
    are those it may have; `watch(stage, totals)` is told of progress. Raises UsageError where it cannot.
    """
    out, totals = os.fspath(out), Totals(recordings.num_rows, settings.profile)
    with only_writer(out, lambda stage: watch(stage, totals)) as may_write:
        return _score(recordings, out, settings, load, watch, fingerprints, totals, may_write)


def _score(
    recordings: pa.Table, out: str, settings: Settings, load: Callable, watch: Callable, fingerprints: Callable,
    totals: Totals, may_write: Callable[[], bool],
) -> Totals:  # fmt: skip
    shown_s = 15.0 if storage.is_remote(out) else 2.0  # between two states of the run that `sqllm show` sees
    recordings = manifest.keep(out, recordings)
    done = np.zeros(len(recordings), bool)
    scores = storage.join(out, "scores")
    if storage.info(scores)[0] == "directory":
        watch("looking at what is scored", totals)
        partitions = [settings.partition(fingerprint) for fingerprint in sorted(fingerprints(settings.model))]
        with writing(out):
            done, standing = resume.standing([storage.join(scores, name) for name in partitions], recordings)
        if len(standing):
            totals.keep(standing)
            totals.partitions = sorted(map(settings.partition, pc.unique(standing["model"]).to_pylist()))
    if not done.all():
        with writing(out):
            write_summary(out, totals)
    sinks: dict[str, Sink] = {}
    schema = row_schema(recordings.drop_columns(["recording_id", "uri", "reference_uri"]).schema)

    def sink(fingerprint: str) -> Sink:
        if fingerprint not in sinks:
            partition = settings.partition(fingerprint)
            sinks[fingerprint] = Sink(storage.join(scores, partition), schema)
            totals.partitions = sorted({*totals.partitions, partition})
        return sinks[fingerprint]

    def check() -> None:
        if not may_write():
            raise UsageError(f"this run stood still until another took over {out}: `sqllm show {out}` follows that")

    try:
        for position, made, ready_at in _made(recordings, done, settings, load, watch, totals):
            check()
            known = recordings.slice(position, 1).to_pylist()[0]
            known |= {"profile": settings.profile, "scored_at": datetime.now(UTC)}
            new = [row | known for row in made]
            totals.add(new, ready_at)
            metrics.count(new)
            with metrics.stage("write"), writing(out):
                sink(new[0]["model"]).write(new)
                write_summary(out, totals, every_s=shown_s)
            watch("scoring", totals)
        check()
        totals.finished = True
    finally:
        if may_write():
            with writing(out):
                for each in sinks.values():
                    each.flush()
                if totals.partitions:
                    write_summary(out, totals)
    check()  # else rows that were not written would pass for written
    with writing(out):
        for partition in totals.partitions:
            commit(storage.join(scores, partition), totals.as_dict())
    return totals


def _made(
    recordings: pa.Table, done: np.ndarray, settings: Settings, load: Callable, watch: Callable, totals: Totals
) -> Iterator[tuple[int, list[dict], float]]:
    """(position, rows, when its model was ready) of each recording that is not done, as they come."""
    waiting, problem = ~done, None
    if not waiting.any():
        return
    watch("starting Ray", totals)
    start_ray(settings.verbose)
    pool = Pool.fit(int(waiting.sum()), settings.actors, settings.device)
    watch("loading the model", totals)
    journal = Journal()
    for _ in range(PASSES):
        positions = np.flatnonzero(waiting)
        try:
            for position, parts in joined(_scored(recordings, positions, settings, pool, load, journal)):
                if not waiting[position]:
                    continue  # a block was done again, with a machine that went, and came out otherwise
                waiting[position] = False
                stamp = {"model": parts[0].fingerprint}
                yield position, [row | stamp for row in rows_of(parts)], parts[0].ready_at
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:  # machines went, and what was on them
            problem = error
        if not waiting.any():
            return
    if problem:
        raise problem
    lost = AudioError("MODEL", f"it got lost on its way {PASSES} times")
    for position in np.flatnonzero(waiting).tolist():
        row = recordings.slice(position, 1).to_pylist()[0]
        yield position, [unopened(row["uri"], row["reference_uri"], lost).row | {"model": totals.model}], time.time()


def _scored(
    recordings: pa.Table, positions: np.ndarray, settings: Settings, pool: Pool, load: Callable, journal: Journal
) -> Iterator[tuple[int, Part]]:
    """(position in the table, part) in the order in which they are done."""
    table = recordings.select(["uri", "reference_uri"]).take(positions).append_column("position", pa.array(positions))
    spread = len(table) // int(8 * ray.cluster_resources().get("CPU", 1))
    # recordings in a block: few, for results that come steadily; but a block costs the driver 45 KB as long as it runs
    size = max(1, min(16, spread), len(table) // 2_000)
    parts = (
        ray.data.from_arrow([table.slice(start, size) for start in range(0, len(table), size)])
        .map_batches(
            cut_recordings,
            fn_kwargs={
                "journal": journal,
                "windows": kept(settings.windows_per_call, settings.until_se),
                "level_db": settings.level,
            },
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=CUT_CPUS,
        )
        .map_batches(
            Scorer,
            fn_constructor_args=(load, settings, pool, journal),
            compute=ray.data.ActorPoolStrategy(size=pool.actors),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            batch_size=pool.chunks,
            batch_format="pyarrow",
        )
    )
    for batch in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for position, part in unpacked(batch):
            if isinstance(part, UsageError):  # no actor could load the model
                raise part
            yield position, part
