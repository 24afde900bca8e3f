"""A run beside an earlier one: what got worse or better, where, and whether that is more than chance.

One draw is a recording, with the mean of its channels. Where most recordings are in both runs, each is compared with
itself; otherwise the two runs are two samples. Chance is judged by permutation (signs of the differences, or labels of
the runs), from `SMALL` recordings on by its limit, the t test of Welch; then all judgements of a report together are
corrected for their number by Benjamini and Hochberg. Of more than `SAMPLE` recordings every k-th hash stands for all:
ids are hashes, so that both runs keep the same ones, and memory does not grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from pyarrow import dataset

from pipelines.report.gather import COLUMNS, MEASURES, measures
from pipelines.results import Results

SAMPLE, SMALL, LEAST = 200_000, 200, 5  # LEAST: recordings of a value that is judged by itself
PERMUTATIONS = 9_999
FALSE = 0.05  # share of what is called more than chance that may be chance after all


@dataclass
class Difference:
    """Of one measure, for all recordings (`column` None) or those with one value of a column."""

    measure: str
    column: str | None
    value: object
    n: tuple[int, int]  # recordings then and now
    then: float
    now: float
    low: float  # of now - then, 95 %
    high: float
    p: float
    real: bool = False  # more than chance, after the correction

    @property
    def by(self) -> float:
        return self.now - self.then


@dataclass
class Comparison:
    baseline: Results
    paired: bool
    both: int  # recordings in both runs
    sampled: bool
    differences: list[Difference] = field(default_factory=list)


@dataclass
class Draws:
    """Recordings: ids [n] in order, values [n, MEASURES], and the carried values [n] of each column."""

    ids: np.ndarray
    values: np.ndarray
    columns: dict[str, np.ndarray]

    def take(self, chosen: np.ndarray) -> Draws:
        return Draws(self.ids[chosen], self.values[chosen], {k: v[chosen] for k, v in self.columns.items()})


def compare(results: Results, baseline: Results, recordings: int, by: Sequence[str]) -> Comparison:
    """`results`, of so many recordings, beside an earlier run, also by those of the columns `by` that both have."""
    by = [column for column in by if column in baseline.carried]
    keep = max(recordings, baseline.summary["done"]) // SAMPLE + 1
    now, then = (_draws(run, by, keep) for run in (results, baseline))
    _, at_now, at_then = np.intersect1d(now.ids, then.ids, return_indices=True)
    paired = len(at_now) >= 2 and 2 * len(at_now) >= min(len(now.ids), len(then.ids))
    if paired:
        now, then = now.take(at_now), then.take(at_then)
    out = Comparison(baseline, paired, len(at_now), keep > 1)
    for column, value, mask_then, mask_now in _groups(then, now, by, paired):
        for measure in MEASURES if column is None else ("mos", "failed"):
            at = MEASURES.index(measure)
            found = _difference(then.values[mask_then, at], now.values[mask_now, at], paired)
            if found:
                out.differences.append(Difference(measure, column, value, *found))
    _correct(out.differences)
    return out


def _draws(run: Results, by: Sequence[str], keep: int) -> Draws:
    """One in `keep` recordings of a run."""
    ids, values, columns = [], [], {column: [] for column in by}
    for _, batch in run.batches(COLUMNS | {f"by_{name}": dataset.field(name) for name in by}):
        chosen = batch["recording_id"].to_numpy().view(np.uint64) % np.uint64(keep) == 0
        batch = batch.filter(chosen)
        ids.append(batch["recording_id"].to_numpy())
        values.append(measures(batch))
        for column in by:
            columns[column].append(np.array(batch[f"by_{column}"].to_pylist(), object))
    ids, first, at = np.unique(np.concatenate(ids), return_index=True, return_inverse=True)
    rows = np.concatenate(values)
    total, count = np.zeros((2, len(ids), len(MEASURES)))
    np.add.at(total, at, np.nan_to_num(rows))
    np.add.at(count, at, ~np.isnan(rows))
    with np.errstate(invalid="ignore"):
        return Draws(ids, total / count, {column: np.concatenate(parts)[first] for column, parts in columns.items()})


def _groups(then: Draws, now: Draws, by: Sequence[str], paired: bool) -> Iterator[tuple]:
    """(column, value, which then, which now): all recordings, then those of each value that both runs have."""
    yield None, None, np.ones(len(then.ids), bool), np.ones(len(now.ids), bool)
    for column in by:
        for value in sorted(set(then.columns[column]) & set(now.columns[column]), key=str):
            masks = [draws.columns[column] == value for draws in (then, now)]
            if paired:  # a recording that changed sides tells of neither
                masks = [masks[0] & masks[1]] * 2
            if min(mask.sum() for mask in masks) >= LEAST:
                yield column, value, *masks


def _difference(then: np.ndarray, now: np.ndarray, paired: bool) -> tuple | None:
    """((n, n), mean then, mean now, low, high, p) of two samples with NaNs; None where there is too little."""
    from scipy import stats

    if paired:
        known = ~np.isnan(then) & ~np.isnan(now)
        then, now = then[known], now[known]
    else:
        then, now = then[~np.isnan(then)], now[~np.isnan(now)]
    if min(len(then), len(now)) < 2:
        return None
    counts = (len(then), len(now))
    if (paired and not (then - now).any()) or np.ptp(np.concatenate([then, now])) == 0:
        return counts, then.mean(), now.mean(), 0.0, 0.0, 1.0
    with np.errstate(all="ignore"):
        test = stats.ttest_rel(now, then) if paired else stats.ttest_ind(now, then, equal_var=False)
    interval, p = test.confidence_interval(0.95), test.pvalue
    if sum(counts) <= SMALL or not np.isfinite(p):
        p = stats.permutation_test(
            (now, then), _mean_difference, permutation_type="samples" if paired else "independent", vectorized=True,
            n_resamples=PERMUTATIONS, batch=1000, rng=np.random.default_rng(0),
        ).pvalue  # fmt: skip
    return counts, then.mean(), now.mean(), interval.low, interval.high, p


def _mean_difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    return a.mean(axis) - b.mean(axis)


def _correct(differences: Sequence[Difference]) -> None:
    from scipy.stats import false_discovery_control

    if differences:
        for difference, p in zip(differences, false_discovery_control([d.p for d in differences]), strict=True):
            difference.real = bool(p < FALSE)
