"""Agreement between predicted and voted scores, as ITU-T P.1401 (2020) asks for it.

Every figure is of one set: sets differ in their listeners and in what else was heard, so that a pooled figure hides a
bias that a figure per set shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

LEAST = 8  # clusters: the intervals of fewer look certain, and are not
RESAMPLES = 2000


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt(np.dot(x, x) * np.dot(y, y))
    return float(np.dot(x, y) / scale) if len(x) > 2 and scale > 1e-12 else float("nan")


FIGURES = {  # without p values, for the bootstrap
    "r": _pearson,
    "rho": lambda x, y: _pearson(stats.rankdata(x), stats.rankdata(y)),
    "mae": lambda x, y: float(np.abs(x - y).mean()),
    "rmse": lambda x, y: float(np.sqrt(np.mean((x - y) ** 2))),
}


def interval(std: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Half the 95 % confidence interval of a mean of `votes` votes with this standard deviation; NaN below two."""
    votes = np.asarray(votes, float)
    enough = np.where(votes > 1, votes, np.nan)
    return stats.t.ppf(0.975, enough - 1) * np.asarray(std, float) / np.sqrt(enough)


def map_third_order(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """`predicted` through the third-order polynomial that comes nearest to `true` and nowhere falls (P.1401, 7.5)."""
    centre, width = predicted.mean(), max(float(np.ptp(predicted)) / 2, 1e-6)
    x = (predicted - centre) / width  # well conditioned
    powers = np.vander(x, 4, increasing=True)
    grid = np.linspace(x.min(), x.max(), 50)
    slope = np.stack([0 * grid, 1 + 0 * grid, 2 * grid, 3 * grid**2], axis=1)
    start = np.linalg.lstsq(powers, true, rcond=None)[0]
    if (slope @ start < -1e-9).any():
        line = np.concatenate([np.linalg.lstsq(powers[:, :2], true, rcond=None)[0], [0, 0]])
        start = optimize.minimize(
            lambda a: np.mean((powers @ a - true) ** 2),
            np.maximum(line, [-np.inf, 0, 0, 0]),
            jac=lambda a: 2 * powers.T @ (powers @ a - true) / len(true),
            constraints={"type": "ineq", "fun": lambda a: slope @ a, "jac": lambda a: slope},
            method="SLSQP",
        ).x
    return powers @ start


def _errors(predicted: np.ndarray, true: np.ndarray, ci: np.ndarray | None, spent: int) -> dict:
    """RMSE, and where the votes' intervals are known RMSE* and outlier ratio; `spent`: degrees of freedom."""
    error = np.abs(predicted - true)
    out = {"rmse": float(np.sqrt(np.sum(error**2) / max(len(error) - spent, 1)))}
    if ci is not None and np.isfinite(ci).all():
        out["rmse_star"] = float(np.sqrt(np.sum(np.maximum(error - ci, 0) ** 2) / max(len(error) - max(spent, 1), 1)))
        out["outlier_ratio"] = float(np.mean(error > ci))
    return out


def agreement(
    predicted: Sequence[float], true: Sequence[float], clusters: Sequence | None = None,
    ci: Sequence[float] | None = None, seed: int = 1,
) -> dict:  # fmt: skip
    """n, MAE, RMSE, Pearson r, Spearman rho, Kendall tau; RMSE* and outlier ratio; the same errors after mapping.

    `ci` is half the confidence interval of each vote (`interval`). The 95 % intervals of r, rho, mae and rmse are
    bootstrapped, whole `clusters` (conditions) of clips at a time. Correlations are NaN where there are fewer than
    three values or all are the same.
    """
    x, y = np.asarray(predicted, float), np.asarray(true, float)
    ci = None if ci is None else np.asarray(ci, float)
    out: dict = {"n": len(x), **{name: figure(x, y) for name, figure in FIGURES.items()}}
    out["tau"] = float(stats.kendalltau(x, y).statistic)
    out |= _errors(x, y, ci, spent=0)
    if len(x) > 8:
        mapped = map_third_order(x, y)
        out["mapped"] = _errors(mapped, y, ci, spent=4) | {"r": _pearson(mapped, y)}
    if draws := resamples(range(len(x)) if clusters is None else clusters, seed):
        for name, figure in FIGURES.items():
            out[f"{name}_95"] = percentiles([figure(x[at], y[at]) for at in draws])
    return out


def resamples(clusters: Sequence, seed: int = 1) -> list[np.ndarray]:
    """Indices of bootstrap samples, whole clusters at a time; none where there are too few to tell an interval."""
    groups = np.unique(np.asarray(clusters), return_inverse=True)[1]
    members = [np.flatnonzero(groups == g) for g in range(groups.max(initial=-1) + 1)]
    rng, k = np.random.default_rng(seed), len(members)
    if k < LEAST:
        return []
    return [np.concatenate([members[g] for g in rng.integers(k, size=k)]) for _ in range(RESAMPLES)]


def percentiles(values: Sequence[float]) -> list[float]:
    """The 95 % interval; NaN where no value is a number."""
    if not len(values) or np.isnan(values).all():
        return [float("nan")] * 2
    return [float(v) for v in np.nanpercentile(values, [2.5, 97.5])]


def estimate(values: Sequence[float], clusters: Sequence | None = None) -> dict:
    """n, mean and its 95 % interval, whole `clusters` (speakers, clips) at a time."""
    x = np.asarray(values, float)
    if not len(x):
        return {"n": 0, "mean": float("nan"), "mean_95": percentiles([])}
    means = [x[at].mean() for at in resamples(range(len(x)) if clusters is None else clusters)]
    return {"n": len(x), "mean": float(x.mean()), "mean_95": percentiles(means)}


def by_condition(condition: Sequence, *columns: Sequence[float]) -> list[np.ndarray]:
    """The means of each condition, conditions in sorted order."""
    groups = np.unique(np.asarray(condition), return_inverse=True)[1]
    count = np.bincount(groups)
    return [np.bincount(groups, weights=np.asarray(c, float)) / count for c in columns]
