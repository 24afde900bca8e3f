"""One pass over the rows of a run. What is kept does not grow with their number: sums, histograms and the worst few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset

from pipelines.results import Results
from sqllm import DIMENSIONS
from sqllm.plain import CLIPPED_PCT, NARROW_HZ, NOISY_DB, QUIET_DB, SCALE

RATES = {  # shares of rows; names as they stand on the page
    "failed": "could not be scored",
    "silent": "nobody speaks",
    "poor": "sounds poor or very bad",
    "narrow": "telephone sound (nothing above 4 kHz)",
    "clipped": "overdriven (peaks cut off)",
    "gaps": "voice cut out at least once",
    "noisy": "background louder than 15 dB below the voice",
    "quiet": "too quiet (below -40 dB)",
}
MEASURES = (*DIMENSIONS, *RATES)
BINS = np.round(np.arange(1, 5.01, 0.1), 1)
MOST_VALUES = 1000  # of a column to group by
EXAMPLES = 3  # of each kind of failure

_evidence = {name: ("evidence", name) for name in ("level_db", "snr_db", "band_high_hz", "clipped_pct", "dropout_pct")}
COLUMNS = {name: dataset.field(*path) for name, path in _evidence.items()} | {
    name: dataset.field(name)
    for name in ("recording_id", "uri", "channel", "status", "error_code", "error_detail", "duration_s", "speech_s",
                 "scored_at", *DIMENSIONS)
}  # fmt: skip


def measures(batch: pa.RecordBatch) -> np.ndarray:
    """[rows, MEASURES] of a batch of `COLUMNS`; a rate is 0 or 1; NaN where a row does not tell."""
    numbers = {name: _floats(batch[name]) for name in (*DIMENSIONS, *_evidence)}
    status, code = batch["status"], pc.fill_null(batch["error_code"], "")
    failed, ok = (pc.equal(status, word).to_numpy(zero_copy_only=False) for word in ("failed", "ok"))
    rates = {
        "failed": failed,
        "silent": np.where(failed, np.nan, pc.equal(code, "SILENT").to_numpy(zero_copy_only=False)),
        "poor": _known(numbers["mos"], numbers["mos"] < SCALE[1][0]),
        "narrow": _known(numbers["band_high_hz"], numbers["band_high_hz"] < NARROW_HZ),
        "clipped": _known(numbers["clipped_pct"], numbers["clipped_pct"] >= CLIPPED_PCT),
        "gaps": _known(numbers["dropout_pct"], numbers["dropout_pct"] > 0),
        "noisy": _known(numbers["snr_db"], numbers["snr_db"] < NOISY_DB),
        "quiet": _known(numbers["level_db"], numbers["level_db"] < QUIET_DB),
    }
    for name in ("narrow", "clipped", "gaps", "noisy", "quiet"):  # of a file that broke or is silent they say nothing
        rates[name] = np.where(ok, rates[name], np.nan)
    return np.stack([*(numbers[d] for d in DIMENSIONS), *(rates[name] for name in RATES)], axis=1).astype(float)


def _floats(column: pa.Array) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _known(value: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(value), np.nan, true)


class Means:
    """Means of all `MEASURES` by the values of one column, with intervals that count recordings, not rows.

    The channels of a recording resemble each other: its rows are one draw, whose sum and count enter the variance.
    """

    names = MEASURES
    SUMS = ("rows", "recordings", "s", "ss", "sn", "nn")  # of a recording: s its sum, n its rows

    def __init__(self, column: str | None = None):
        self.column = column
        self.values: dict = {}
        self.sums = np.zeros((0, len(MEASURES), len(self.SUMS)))

    @property
    def too_many(self) -> bool:
        return len(self.values) > MOST_VALUES

    def add(self, ids: np.ndarray, found: np.ndarray, values: pa.Array | None) -> None:
        """`found` [rows, MEASURES] of recordings `ids` [rows] with the column's `values`."""
        if self.too_many:
            return
        at = np.zeros(len(ids), int)
        if values is None:
            self.values.setdefault(None, 0)
        else:
            coded = values.dictionary_encode(null_encoding="encode")
            here = [self.values.setdefault(value, len(self.values)) for value in coded.dictionary.to_pylist()]
            at = np.array(here)[coded.indices.to_numpy()]
        if len(self.values) > len(self.sums):
            self.sums = np.concatenate([self.sums, np.zeros((len(self.values) - len(self.sums), *self.sums.shape[1:]))])
        pairs, inverse = np.unique(np.stack([ids, at]), axis=1, return_inverse=True)
        s, n = np.zeros((2, pairs.shape[1], len(MEASURES)))
        np.add.at(s, inverse.ravel(), np.nan_to_num(found))
        np.add.at(n, inverse.ravel(), ~np.isnan(found))
        np.add.at(self.sums, pairs[1], np.stack([n, n > 0, s, s * s, s * n, n * n], axis=-1))

    def of(self, value, name: str) -> tuple[int, float, float, float]:
        """(recordings, mean, low, high) of a measure; NaN where nothing tells, the interval from two recordings on."""
        from scipy.stats import t

        n, r, s, ss, sn, nn = self.sums[self.values[value], MEASURES.index(name)]
        mean = s / n if n else np.nan
        if r < 2:
            return int(r), mean, np.nan, np.nan
        error = np.sqrt(max(ss - 2 * mean * sn + mean**2 * nn, 0) / n**2 * r / (r - 1)) * t.ppf(0.975, r - 1)
        bottom, top = (0, 1) if name in RATES else (1, 5)
        return int(r), mean, max(mean - error, bottom), min(mean + error, top)


@dataclass
class Gathered:
    """What a report says of a run."""

    rows: int = 0
    recordings: int = 0
    audio_s: float = 0.0  # of recordings, not of channels
    longest_s: float = 0.0
    heard_s: float = 0.0  # of scored channels
    speech_s: float = 0.0
    status: Counter = field(default_factory=Counter)
    codes: Counter = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # code -> [(uri, detail)]
    histograms: dict[str, np.ndarray] = field(
        default_factory=lambda: {d: np.zeros(len(BINS) - 1, int) for d in DIMENSIONS}
    )
    bands: np.ndarray = field(default_factory=lambda: np.zeros(len(SCALE), int))  # of mos, as in SCALE
    overall: Means = field(default_factory=Means)
    groups: list[Means] = field(default_factory=list)
    worst: list[dict] = field(default_factory=list)  # rows without windows, the lowest mos first; "part": their file


def gather(results: Results, by: Sequence[str], worst: int) -> Gathered:
    """All figures of a run, by the columns `by`, and the `worst` rows."""
    found = Gathered(groups=[Means(column) for column in by])
    last = None
    for part, batch in results.batches(COLUMNS | {f"by_{name}": dataset.field(name) for name in by}):
        ids = batch["recording_id"].to_numpy()
        table = measures(batch)
        found.overall.add(ids, table, None)
        for group in found.groups:
            group.add(ids, table, batch[f"by_{group.column}"])
        last = _count(found, batch, ids, last)
        _worst(found, part, batch, worst)
    return found


def _count(found: Gathered, batch: pa.RecordBatch, ids: np.ndarray, last: int | None) -> int:
    """Counts of a batch; a recording's rows lie together, so that only `last`, of the batch before, can come again."""
    unique, inverse = np.unique(ids, return_inverse=True)
    seconds, longest = np.nan_to_num(_floats(batch["duration_s"])), np.zeros(len(unique))
    np.maximum.at(longest, inverse, seconds)
    longest[unique == last] = 0
    found.rows += len(batch)
    found.recordings += len(unique) - int(last in unique)
    found.audio_s += float(longest.sum())
    found.longest_s = max(found.longest_s, float(longest.max(initial=0)))
    ok = pc.equal(batch["status"], "ok").to_numpy(zero_copy_only=False)
    found.heard_s += float(seconds[ok].sum())
    found.speech_s += float(np.nan_to_num(_floats(batch["speech_s"]))[ok].sum())
    for counter, name in ((found.status, "status"), (found.codes, "error_code")):
        counts = pc.value_counts(batch[name].drop_null()).to_pylist()
        counter.update({count["values"]: count["counts"] for count in counts})
    _examples(found, batch)
    for d in DIMENSIONS:
        scores = _floats(batch[d])
        found.histograms[d] += np.histogram(scores[~np.isnan(scores)], BINS)[0]
    mos = _floats(batch["mos"])
    band = np.searchsorted([limit for limit, _ in SCALE], mos[~np.isnan(mos)], side="right")
    found.bands += np.bincount(band, minlength=len(SCALE))
    return int(ids[-1])


def _examples(found: Gathered, batch: pa.RecordBatch) -> None:
    for code in pc.unique(batch["error_code"].drop_null()).to_pylist():
        kept = found.examples.setdefault(code, [])
        if len(kept) < EXAMPLES:
            rows = batch.filter(pc.equal(batch["error_code"], code)).slice(0, EXAMPLES - len(kept))
            kept += [(row["uri"], row["error_detail"] or "") for row in rows.to_pylist()]


def _worst(found: Gathered, part: dataset.Fragment, batch: pa.RecordBatch, count: int) -> None:
    scored = batch.filter(pc.is_valid(batch["mos"]))
    if len(scored):
        lowest = scored.take(pc.select_k_unstable(scored, min(count, len(scored)), sort_keys=[("mos", "ascending")]))
        rows = [row | {"part": part} for row in lowest.to_pylist()]
        found.worst = nsmallest(count, [*found.worst, *rows], key=lambda row: (row["mos"], row["uri"]))
