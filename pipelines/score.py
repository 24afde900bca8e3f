"""The main job: every recording to its scores, with Ray Data.

    recordings -> cut (CPU tasks) -> Scorer (a pool of actors, a model in each) -> rows (driver) -> Parquet

Audio travels between the stages as pickled `Chunk`s, block by block, so that neither one long recording nor many of
them fill the memory. The driver sees no audio: it joins the scored chunks of a recording and holds no more than the
recordings in flight.
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import ray

from pipelines.cluster import CUT_CPUS, Pool, start_ray
from pipelines.sink import Sink, row_schema
from pipelines.summary import Totals, write_summary
from sqllm.audio.draw import MOST
from sqllm.errors import UsageError
from sqllm.recording import Chunk, cut, in_words, rows


@dataclass(frozen=True)
class Settings:
    """How to score; the same names as the options of `sqllm score`."""

    model: str = "embedded"
    profile: str | None = None
    explain: str = "never"
    windows_per_call: int | None = None  # of a channel; None: all
    until_se: float | None = None
    actors: int | None = None  # None: one a core, or a GPU, but no more than there are recordings
    device: str = "auto"
    verbose: bool = False

    @property
    def windows(self) -> int | None:
        """How many windows of a channel are kept to be scored; None: all."""
        return self.windows_per_call or (MOST if self.until_se else None)


@dataclass
class Part:
    """One scored chunk, without its audio."""

    chunk: Chunk
    of: int | None  # how many chunks the recording has; known to its last one
    scores: dict | None  # or {"error": why the model failed on it}
    fingerprint: str
    ready_at: float  # when its actor had loaded the model


def load_predictor(model: str, device: str, threads: int):
    """What runs in each actor; the driver needs no torch."""
    import torch

    from sqllm import Predictor

    torch.set_num_threads(threads)
    return Predictor.load(model=model, device=device)


def score(
    recordings: pa.Table,
    out: Path,
    settings: Settings,
    load: Callable = load_predictor,
    watch: Callable[[str, Totals], None] = lambda stage, totals: None,
) -> Totals:
    """Score the table of `sources.find` into `out/scores/` and `out/summary.json`, and return the counts.

    `load(model, device, threads)` makes the predictor of an actor; `watch(stage, totals)` is told of progress.
    Rows of an earlier run in `out` are replaced as soon as the model has loaded. Raises UsageError where it cannot.
    """
    totals = Totals(recordings.num_rows, settings.profile)
    watch("starting Ray", totals)
    start_ray(settings.verbose)
    pool = Pool.fit(recordings.num_rows, settings.actors, settings.device)
    watch("loading the model", totals)
    carried = recordings.drop_columns(["recording_id", "uri", "reference_uri"]).schema
    sink = None
    try:
        for position, parts in _joined(_scored(recordings, settings, pool, load)):
            if sink is None:
                sink = Sink(out / "scores", row_schema(carried))
            known = recordings.slice(position, 1).to_pylist()[0]
            known |= {"profile": settings.profile, "model": parts[0].fingerprint, "scored_at": datetime.now(UTC)}
            done = [row | known for row in _rows(parts)]
            totals.add(done, parts[0].ready_at)
            if sink.write(done):
                write_summary(out, totals)
            watch("scoring", totals)
        totals.finished = True
    finally:
        if sink is not None:
            sink.flush()
            write_summary(out, totals)
    return totals


def _scored(recordings: pa.Table, settings: Settings, pool: Pool, load: Callable) -> Iterator[tuple[int, Part]]:
    """(position in the table, part) in the order in which they are done."""
    table = recordings.select(["uri", "reference_uri"]).append_column("position", pa.array(range(len(recordings))))
    spread = len(table) // int(8 * ray.cluster_resources()["CPU"])
    size = max(1, min(16, spread), len(table) // 10_000)  # recordings in a block: few, for results that come steadily
    parts = (
        ray.data.from_arrow([table.slice(start, size) for start in range(0, len(table), size)])
        .map_batches(
            cut_recordings,
            fn_kwargs={"windows": settings.windows},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=CUT_CPUS,
        )
        .map_batches(
            Scorer,
            fn_constructor_args=(load, settings, pool),
            compute=ray.data.ActorPoolStrategy(size=pool.actors),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            batch_size=pool.chunks,
            batch_format="pyarrow",
        )
    )
    for batch in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for position, part in _unpacked(batch):
            if isinstance(part, UsageError):  # no actor could load the model
                raise part
            yield position, part


def cut_recordings(batch: pa.Table, windows: int | None = None) -> Iterator[pa.Table]:
    """`position, uri, reference_uri` -> one packed (Chunk, number of chunks if this is the last one) after another."""
    for row in batch.to_pylist():
        count, last = 0, None
        for chunk in cut(row["uri"], row["reference_uri"], windows):
            if last is not None:
                yield _packed([(row["position"], (last, None))])
            count, last = count + 1, chunk
        yield _packed([(row["position"], (last, count))])


class Scorer:
    """The actor: loads the model once, scores chunks, and lets their audio go."""

    def __init__(self, load: Callable, settings: Settings, pool: Pool):
        self.settings = settings
        self.refusal = None
        try:
            self.predictor = load(settings.model, pool.device, pool.threads)
        except Exception as error:  # thrown from here it would reach the user as a page of Ray's own words
            self._explain()
            reason = str(error) if isinstance(error, UsageError) else in_words(error)
            self.refusal = UsageError(f"cannot load the model {settings.model}: {reason}")
        self.ready_at = time.time()

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.refusal:
            return _packed([(position, self.refusal) for position, _ in _unpacked(batch)])
        positions, pairs = zip(*_unpacked(batch), strict=True)
        results = self._score([chunk for chunk, _ in pairs])
        return _packed(
            (position, Part(chunk.without_audio(), of, scores, self.predictor.fingerprint, self.ready_at))
            for position, (chunk, of), scores in zip(positions, pairs, results, strict=True)
        )

    def _score(self, chunks: list[Chunk]) -> list[dict | None]:
        """The scores of each; a call that fails is repeated one by one, so that one chunk spoils no other."""
        try:
            settings = self.settings
            return self.predictor.score_chunks(chunks, settings.profile, settings.explain, settings.until_se)
        except Exception as error:
            if len(chunks) > 1:
                return [result for chunk in chunks for result in self._score([chunk])]
            self._explain()
            return [{"error": in_words(error)}]

    def _explain(self) -> None:
        if self.settings.verbose:
            traceback.print_exc()


def _joined(parts: Iterator[tuple[int, Part]]) -> Iterator[tuple[int, list[Part]]]:
    """All parts of a recording together, as soon as the last of them is there."""
    waiting: dict[int, list[Part]] = {}
    for position, part in parts:
        together = waiting.setdefault(position, [])
        together.append(part)
        if any(part.of == len(together) for part in together):
            yield position, waiting.pop(position)


def _rows(parts: list[Part]) -> list[dict]:
    """One row a channel. A model that gave nonsense costs the recording's rows, not the run."""
    try:
        return rows((part.chunk, part.scores) for part in parts)
    except Exception as error:
        known = next((part.chunk.row for part in parts if part.chunk.row), {})
        failed = {"status": "failed", "error_code": "MODEL", "error_detail": in_words(error)}
        return [{**known, "channel": channel, **failed} for channel in sorted({part.chunk.channel for part in parts})]


def _packed(items) -> pa.Table:
    """(position, anything) rows for Ray: pickled, because numpy's fixed-width bytes lose trailing zeros."""
    positions, things = zip(*items, strict=True)
    packed = pa.array([pickle.dumps(thing, protocol=5) for thing in things], pa.large_binary())
    return pa.table({"position": pa.array(positions, pa.int64()), "thing": packed})


def _unpacked(batch: pa.Table) -> Iterator[tuple[int, object]]:
    for position, thing in zip(batch["position"], batch["thing"], strict=True):
        yield position.as_py(), pickle.loads(thing.as_buffer())
