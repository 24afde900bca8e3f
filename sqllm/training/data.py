"""A simulated corpus as tensors: pooled features (memory-mapped) and ratings with their spread."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sqllm import DIMENSIONS
from sqllm.audio.degrade import Impairment
from sqllm.audio.evidence import describe, measure
from sqllm.audio.io import to_int16
from sqllm.corpus import ratings
from sqllm.corpus.manifest import leakage
from sqllm.corpus.questions import costs
from sqllm.errors import UsageError
from sqllm.faults import AUDIBLE, PHRASES
from sqllm.training.features import features_path, samples

COLUMNS = ["index", "split", "speaker", "chain", "severities", "distillmos", "pesq", *DIMENSIONS]

WITHHELD = 0.2  # share of clips of which the measured facts are not told


@dataclass
class Clips:
    """Clips of one split. `mean`, `std` [n, 5] are what a panel would say, in the order of `DIMENSIONS`."""

    rows: list[dict]
    shards: list[np.ndarray]  # of features, memory-mapped
    where: np.ndarray  # [n, 2]: shard, row in it
    paths: list[Path]
    mean: np.ndarray
    std: np.ndarray
    _facts: dict[int, dict] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def features(self, indices, reference: bool = False) -> Tensor:
        """[k, layers, tokens, width], of the degraded clips or of their references."""
        x = np.stack([self.shards[s][r, int(reference)] for s, r in self.where[indices]])
        return torch.from_numpy(x).float()

    def chain(self, i: int) -> list[Impairment]:
        return [Impairment(s["kind"], s["params"], [tuple(x) for x in s["spans"]]) for s in self.rows[i]["chain"]]

    def facts(self, i: int) -> dict:
        """What is measured of the degraded clip (`evidence.measure`)."""
        if i not in self._facts:
            self._facts[i] = measure(to_int16(samples(self.audio(i))))
        return self._facts[i]

    def told(self, i: int, rng: np.random.Generator) -> str:
        """The facts in words; at times they are withheld, so that the model learns to listen."""
        return "" if rng.random() < WITHHELD else describe(self.facts(i))

    def costs(self, indices) -> Tensor:
        """[k, faults]: what each fault costs, in the order of `faults.PHRASES`."""
        found = [costs(self.chain(i)) for i in indices]
        return torch.tensor([[of.get(name, 0.0) for name in PHRASES] for of in found])

    def audio(self, i: int) -> bytes:
        shard, row = self.where[i]
        return pq.read_table(self.paths[shard], columns=["audio"])["audio"][int(row)].as_py()


def agreement(clips: Clips, scores: np.ndarray, costs: np.ndarray) -> dict[str, float]:
    """How the first clips' scores [n, 5] and costs of faults [n, faults] agree with the truth.

    Pearson r of each dimension, the error of mos; how often the worst fault is the true one, how many of the audible
    faults are found (recall), and how many of those found are audible (precision).
    """
    true, there = clips.mean[: len(scores)], clips.costs(range(len(scores))).numpy()
    out = {f"r_{d}": np.corrcoef(scores[:, i], true[:, i])[0, 1] for i, d in enumerate(DIMENSIONS)}
    named, right = costs >= AUDIBLE, there >= AUDIBLE
    worst = (costs.argmax(1) == there.argmax(1))[right.any(1)].mean()
    out |= {"mae_mos": np.abs(scores[:, 0] - true[:, 0]).mean(), "worst_fault": worst}
    return out | {"recall": named[right].mean(), "precision": right[named].mean() if named.any() else 0.0}


def panel_mos(rows: list[dict]) -> np.ndarray:
    """mos [n] of DistillMOS, PESQ and the ratings of the parameters, .4 : .4 : .2.

    DistillMOS and PESQ say which clip is better; how good that is on the scale of listeners, the parameters say, which
    are fitted to human votes: the teachers are brought to their mean and spread over the corpus. Both teachers are
    blind to level, so that they get the level's share of the parameters' rating. Without teachers (simulated with
    --no-panel) the parameters stand alone.
    """
    from_parameters = np.array([row["mos"] for row in rows])
    taught = {row.get("distillmos") is not None for row in rows}
    if len(taught) > 1:
        raise UsageError("some shards of this corpus have teachers of mos and some were simulated with --no-panel")
    if taught == {False}:
        return from_parameters
    distill = _standard(np.array([row["distillmos"] for row in rows]))
    pesq = _standard(np.array([np.nan if row["pesq"] is None else row["pesq"] for row in rows]))
    heard = _standard(np.where(np.isnan(pesq), distill, (distill + pesq) / 2))
    level = [{k: v for k, v in row["severities"].items() if k in ("quiet", "loud")} for row in rows]
    kept = np.array([(ratings.expected(s)["mos"] - 1) / (ratings.CLEAN["mos"] - 1) for s in level])
    at_level = 1 + (from_parameters - 1) / kept
    heard = at_level.mean() + at_level.std() * heard
    return np.clip(0.8 * (1 + (heard - 1) * kept) + 0.2 * from_parameters, 1, 5)


def _standard(x: np.ndarray) -> np.ndarray:
    return (x - np.nanmean(x)) / max(np.nanstd(x), 1e-6)


def read(corpus: Path, key: str) -> dict[str, Clips]:
    """The splits "train" and "val" of a corpus whose features are prepared."""
    paths = [p for p in sorted(corpus.glob("clips-*.parquet")) if features_path(p, key).exists()]
    if not paths:
        raise UsageError(f"no clips in {corpus} whose features are prepared: `sqllm.training.train` prepares them")
    rows, where = [], []
    for s, path in enumerate(paths):
        columns = [name for name in COLUMNS if name in pq.read_schema(path).names]  # no teachers with --no-panel
        for r, row in enumerate(pq.read_table(path, columns=columns).to_pylist()):
            rows.append(row | {"chain": json.loads(row["chain"]), "severities": json.loads(row["severities"])})
            where.append((s, r))
    if shared := leakage(rows):
        raise UsageError(f"{corpus} would be judged by what it trains on: {shared}")
    shards, where = [np.load(features_path(p, key), mmap_mode="r") for p in paths], np.array(where)
    mean = np.array([[row[d] for d in DIMENSIONS] for row in rows])
    mean[:, 0] = panel_mos(rows)
    std, split = ratings.spread(mean), np.array([row["split"] for row in rows])
    return {
        name: Clips([rows[i] for i in at], shards, where[at], paths, mean[at], std[at])
        for name in ("train", "val")
        for at in [np.flatnonzero(split == name)]
    }
