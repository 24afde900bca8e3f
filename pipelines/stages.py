"""What runs on the machines of the main job (`pipelines.score`), and what passes between them."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import ray

from pipelines import metrics
from pipelines.cluster import Pool
from pipelines.journal import DEATHS, Journal
from sqllm.errors import AudioError, UsageError
from sqllm.recording import Chunk, cut, in_words, rows, unopened

if TYPE_CHECKING:
    from pipelines.score import Settings


@dataclass
class Part:
    """One scored chunk, without its audio."""

    chunk: Chunk
    of: int | None  # how many chunks the recording has; known to its last one
    scores: dict | None  # or {"error": why the model failed on it}
    fingerprint: str
    ready_at: float  # when its actor had loaded the model


def cut_recordings(batch: pa.Table, journal: Journal, **options) -> Iterator[pa.Table]:
    """`position, uri, reference_uri` -> one packed (Chunk, number of chunks if this is the last one) after another.

    `options` are those of `cut`. The block is taken in hand at once, and each recording let go before its last chunk
    leaves: what scores that may run in this process, and its death is none of a recording's that is cut.
    """
    recordings = batch.to_pylist()
    keys = [("cut", row["position"]) for row in recordings]
    deaths = journal.begin(*keys)
    if any(deaths) and len(keys) > 1:
        for n in range(len(batch)):
            yield from cut_recordings(batch.slice(n, 1), journal, **options)
        return
    if deaths[0] >= DEATHS:
        [row] = recordings
        error = AudioError("DECODE", f"{DEATHS} processes died while they decoded it")
        yield packed([(row["position"], (unopened(row["uri"], row["reference_uri"], error), 1))])
        return
    for row, key in zip(recordings, keys, strict=True):
        position, count, last = row["position"], 0, None
        for chunk in metrics.staged("cut", cut(row["uri"], row["reference_uri"], **options)):
            if last is not None:
                yield packed([(position, (last, None))])
            count, last = count + 1, chunk
        journal.end(key)
        yield packed([(position, (last, count))])


class Scorer:
    """The actor: loads the model once, scores chunks, and lets their audio go."""

    def __init__(self, load: Callable, settings: Settings, pool: Pool, journal: Journal):
        self.settings, self.journal = settings, journal
        self.refusal = None
        me = ("load", ray.get_runtime_context().get_actor_id())  # which a restart keeps
        if journal.begin(me)[0] >= DEATHS:
            why = f"{DEATHS} processes died of it, which is often a lack of memory: give fewer --actors"
            self.refusal = UsageError(f"cannot load the model {settings.model}: {why}")
            return
        try:
            self.predictor = load(settings.model, pool.device, pool.threads)
        except Exception as error:  # thrown from here it would reach the user as a page of Ray's own words
            self._explain()
            reason = str(error) if isinstance(error, UsageError) else in_words(error)
            self.refusal = UsageError(f"cannot load the model {settings.model}: {reason}")
        journal.end(me)
        self.ready_at = time.time()

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.refusal:
            return packed([(position, self.refusal) for position, _ in unpacked(batch)])
        positions, pairs = zip(*unpacked(batch), strict=True)
        keys = [(position, chunk.channel, chunk.index) for position, (chunk, _) in zip(positions, pairs, strict=True)]
        results = self._safely(keys, [chunk for chunk, _ in pairs])
        return packed(
            (position, Part(chunk.without_audio(), of, scores, self.predictor.fingerprint, self.ready_at))
            for position, (chunk, of), scores in zip(positions, pairs, results, strict=True)
        )

    def _safely(self, keys: list[tuple], chunks: list[Chunk]) -> list[dict | None]:
        """The scores of each, but for what kills its process time and again."""
        deaths = self.journal.begin(*keys)
        if any(deaths) and len(keys) > 1:
            return [result for key, chunk in zip(keys, chunks, strict=True) for result in self._safely([key], [chunk])]
        if deaths[0] >= DEATHS:
            return [{"error": f"{DEATHS} processes died while they scored it", "code": "CRASH"}]
        results = self._score(chunks)
        self.journal.end(*keys)
        return results

    def _score(self, chunks: list[Chunk]) -> list[dict | None]:
        """The scores of each; a call that fails is repeated one by one, so that one chunk spoils no other."""
        try:
            settings = self.settings
            with metrics.stage("score", windows=sum(len(chunk.counts) for chunk in chunks)):
                return self.predictor.score_chunks(chunks, settings.profile, settings.explain, settings.until_se)
        except Exception as error:
            if len(chunks) > 1:
                return [result for chunk in chunks for result in self._score([chunk])]
            self._explain()
            return [{"error": in_words(error)}]

    def _explain(self) -> None:
        if self.settings.verbose:
            traceback.print_exc()


def joined(parts: Iterator[tuple[int, Part]]) -> Iterator[tuple[int, list[Part]]]:
    """All parts of a recording together, as soon as the last of them is there."""
    waiting: dict[int, list[Part]] = {}
    for position, part in parts:
        together = waiting.setdefault(position, [])
        together.append(part)
        if any(part.of == len(together) for part in together):
            yield position, waiting.pop(position)


def rows_of(parts: list[Part]) -> list[dict]:
    """One row a channel. A model that gave nonsense costs the recording's rows, not the run."""
    try:
        return rows((part.chunk, part.scores) for part in parts)
    except Exception as error:
        known = next((part.chunk.row for part in parts if part.chunk.row), {})
        failed = {"status": "failed", "error_code": "MODEL", "error_detail": in_words(error)}
        return [{**known, "channel": channel, **failed} for channel in sorted({part.chunk.channel for part in parts})]


def packed(items) -> pa.Table:
    """(position, anything) rows for Ray: pickled, because numpy's fixed-width bytes lose trailing zeros."""
    positions, things = zip(*items, strict=True)
    packed = pa.array([pickle.dumps(thing, protocol=5) for thing in things], pa.large_binary())
    return pa.table({"position": pa.array(positions, pa.int64()), "thing": packed})


def unpacked(batch: pa.Table) -> Iterator[tuple[int, object]]:
    for position, thing in zip(batch["position"], batch["thing"], strict=True):
        yield position.as_py(), pickle.loads(thing.as_buffer())
