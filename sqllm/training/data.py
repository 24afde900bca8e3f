"""A corpus to train on, as tensors and facts: what the shards of simulated and of rated clips have in common.

What nobody knows has no loss: a dimension without a rating is NaN, a clip without a reference is never double-ended,
and of a rated clip the faults are not known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sqllm import DIMENSIONS
from sqllm.audio.degrade import Impairment
from sqllm.audio.evidence import describe, measure
from sqllm.audio.io import to_int16
from sqllm.corpus import ratings
from sqllm.corpus.manifest import leakage
from sqllm.corpus.panel import DEAF, TEACHERS
from sqllm.corpus.questions import costs
from sqllm.corpus.shards import Shards, samples
from sqllm.errors import UsageError
from sqllm.faults import AUDIBLE, PHRASES
from sqllm.model.encoder import bucket_length
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training.features import features_name, laid

COLUMNS = [
    "index", "recording", "paired", "split", "speaker", "uri", "set", "condition", "chain", "severities",
    *TEACHERS, "votes", *DIMENSIONS, *(f"{d}_std" for d in DIMENSIONS),
]  # fmt: skip

WITHHELD = 0.2  # share of clips of which the measured facts are not told
PRIOR_VOTES = 5  # what the usual spread of votes weighs, beside that of a clip's own votes


@dataclass
class Sound:
    """Clips as the model takes them: pooled features, or waveforms for an encoder that is trained."""

    x: np.ndarray  # float16 [k, layers, tokens, width], or int16 [k, samples]
    lengths: np.ndarray | None = None  # of waveforms, in samples

    def to(self, device: torch.device | str) -> tuple[Tensor, ...]:
        """On this device, in float32: features, or waveforms and their lengths."""
        x = torch.from_numpy(self.x).to(device).float()
        return (x,) if self.lengths is None else (x / 32768, torch.from_numpy(self.lengths).to(device))

    def features(self, model: SpeechQualityLLM) -> Tensor:
        """[k, layers, tokens, width] on the model's device."""
        x, *lengths = self.to(model.device)
        return model.features(x, *lengths) if lengths else x


@dataclass
class Clips:
    """Clips of one split. `mean`, `std` [n, 5] are what a panel would say, in the order of `DIMENSIONS`."""

    rows: list[dict]
    corpora: list[Shards]
    where: list[tuple[int, str, int]]  # of each clip: corpus, shard, row in it
    mean: np.ndarray
    std: np.ndarray
    paired: np.ndarray  # bool [n]: has a reference
    key: str | None  # of the pooled features beside the shards; None: waveforms
    _facts: dict[int, dict] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        known = [(w[0], row.get("recording", (w[1], w[2]))) for w, row in zip(self.where, self.rows, strict=True)]
        first: dict = {}
        for i, name in enumerate(known):
            first.setdefault(name, []).append(i)
        self._recordings = list(first.values())
        self._pairs = [found for at in self._recordings if (found := [i for i in at if self.paired[i]])]

    def __len__(self) -> int:
        return len(self.rows)

    def hash(self) -> str:
        """Changes with the clips and with what is known of them."""
        known = [[row.get(name) for name in ("index", "speaker", "uri", "set", "condition")] for row in self.rows]
        ratings = np.concatenate([self.mean, self.std]).tobytes()
        return hashlib.sha256(json.dumps(known).encode() + ratings).hexdigest()[:16]

    def only(self, at: Sequence[int]) -> Clips:
        """The clips with these numbers."""
        rows, where = [self.rows[i] for i in at], [self.where[i] for i in at]
        return Clips(rows, self.corpora, where, self.mean[at], self.std[at], self.paired[at], self.key)

    def draw(self, k: int, rng: np.random.Generator, double_ended: float) -> tuple[np.ndarray, bool]:
        """Numbers of k clips, each recording as likely as the others, and whether they are heard double-ended."""
        at = _one_of_each(self._recordings, k, rng)
        double = rng.random() < double_ended and bool(self._pairs)
        return at if not double or self.paired[at].all() else _one_of_each(self._pairs, k, rng), double

    def sound(self, indices: Sequence[int], reference: bool = False) -> Sound:
        """The degraded clips, or their references as an aligner leaves them (`features.laid`)."""
        if self.key:
            found, name = [self.where[i] for i in indices], partial(features_name, key=self.key)
            return Sound(np.stack([self.corpora[c].array_row(name(s), r, int(reference)) for c, s, r in found]))
        waves = [self.laid(i) if reference else samples(self.flac(i)) for i in indices]
        lengths = np.array([len(wave) for wave in waves])
        x = np.zeros((len(waves), bucket_length(int(lengths.max()))), np.int16)
        for row, wave in zip(x, waves, strict=True):
            row[: len(wave)] = to_int16(wave)
        return Sound(x, lengths)

    def laid(self, i: int) -> np.ndarray:
        rng = np.random.default_rng([self.rows[i]["index"], 0])
        others = np.flatnonzero(self.paired)
        own = samples(self.flac(i, "reference"))
        return laid(own, lambda: samples(self.flac(rng.choice(others), "reference")), rng)

    def flac(self, i: int, column: str = "audio") -> bytes:
        corpus, shard, row = self.where[i]
        return self.corpora[corpus].value(shard, row, column)

    def chain(self, i: int) -> list[Impairment] | None:
        """What was done to the clip, if it is known."""
        if (chain := self.rows[i].get("chain")) is None:
            return None
        return [Impairment(s["kind"], s["params"], [tuple(x) for x in s["spans"]]) for s in chain]

    def facts(self, i: int) -> dict:
        """What is measured of the degraded clip (`evidence.measure`)."""
        if i not in self._facts:
            self._facts[i] = measure(to_int16(samples(self.flac(i))))
        return self._facts[i]

    def told(self, i: int, rng: np.random.Generator) -> str:
        """The facts in words; at times they are withheld, so that the model learns to listen."""
        return "" if rng.random() < WITHHELD else describe(self.facts(i))

    def costs(self, indices: Sequence[int]) -> np.ndarray:
        """[k, faults]: what each fault costs, in the order of `faults.PHRASES`; NaN where nobody knows."""
        out = np.full((len(indices), len(PHRASES)), np.nan)
        for row, i in zip(out, indices, strict=True):
            if (chain := self.chain(i)) is not None:
                of = costs(chain)
                row[:] = [of.get(name, 0.0) for name in PHRASES]
        return out


def _one_of_each(groups: list[list[int]], k: int, rng: np.random.Generator) -> np.ndarray:
    drawn = [groups[g] for g in rng.integers(len(groups), size=k)]
    return np.array([group[rng.integers(len(group))] if len(group) > 1 else group[0] for group in drawn])


def agreement(clips: Clips, scores: np.ndarray, costs: np.ndarray | None = None) -> dict[str, float]:
    """How the first clips' scores [n, 5] and costs of faults [n, faults] agree with the truth, where it is known.

    Of each dimension Pearson r and the mean error; how often the worst fault is the true one, how many of the audible
    faults are found (recall), and how many of those found are audible (precision).
    """
    true, out = clips.mean[: len(scores)], {}
    for i, d in enumerate(DIMENSIONS):
        got, rated = scores[:, i], true[:, i]
        known = np.isfinite(rated)
        if known.any():
            out[f"mae_{d}"] = np.abs(got - rated)[known].mean()
        if known.sum() > 2 and got[known].std() > 0 and rated[known].std() > 0:
            out[f"r_{d}"] = np.corrcoef(got[known], rated[known])[0, 1]
    there = clips.costs(range(len(scores)))
    known = np.isfinite(there).all(1)
    if costs is None or not (there[known] >= AUDIBLE).any():
        return out
    costs, there = costs[known], there[known]
    named, right = costs >= AUDIBLE, there >= AUDIBLE
    out["worst_fault"] = (costs.argmax(1) == there.argmax(1))[right.any(1)].mean()
    return out | {"recall": named[right].mean(), "precision": right[named].mean() if named.any() else 0.0}


def panel_mos(rows: list[dict], teachers: Sequence[str] = TEACHERS) -> np.ndarray:
    """mos [n] of the teachers and of the ratings of the parameters, .8 : .2.

    The mean of the teachers says which clip is better; how good that is on the scale of listeners, the parameters say,
    which are fitted to human votes: the teachers are brought to their mean and spread over the corpus. All teachers
    are blind to level, so that they get the level's share of the parameters' rating; of speech that was synthesised
    anew only those are asked who can judge it (`DEAF`). Where no teacher rated a clip the parameters stand alone.
    """
    from_parameters = np.array([row["mos"] for row in rows])
    taught = {row.get("distillmos") is not None for row in rows}
    if len(taught) > 1:
        raise UsageError("some shards of this corpus have teachers of mos and some were simulated with --no-panel")
    if taught == {False}:
        return from_parameters
    ways = [{step["kind"] for step in row.get("chain") or ()} for row in rows]
    said = [[None if way & DEAF[t] else row.get(t) for t in teachers] for row, way in zip(rows, ways, strict=True)]
    said = np.array(said, float)
    said = _standard(said[:, np.isfinite(said).any(axis=0)])  # older corpora lack one
    known = np.isfinite(said)
    someone = known.any(axis=1)
    heard = _standard(np.where(known, said, 0)[someone].sum(axis=1) / known[someone].sum(axis=1))
    level = [{k: v for k, v in row["severities"].items() if k in ("quiet", "loud")} for row in rows]
    kept = np.array([(ratings.expected(s)["mos"] - 1) / (ratings.CLEAN["mos"] - 1) for s in level])
    at_level = 1 + (from_parameters - 1) / kept
    at_level[someone] = at_level.mean() + at_level.std() * heard
    return np.clip(0.8 * (1 + (at_level - 1) * kept) + 0.2 * from_parameters, 1, 5)


def _standard(x: np.ndarray) -> np.ndarray:
    """Of each column, with what is NaN left out."""
    return (x - np.nanmean(x, axis=0)) / np.maximum(np.nanstd(x, axis=0), 1e-6) if len(x) else x


def panel_spread(rows: list[dict], mean: np.ndarray) -> np.ndarray:
    """Standard deviation of single votes [n, 5]: that of a clip's own votes, leaning on what is usual at its mean as
    they are few; what is usual where only the mean is known."""
    usual = ratings.spread(mean)
    own = np.array([[row.get(f"{d}_std") for d in DIMENSIONS] for row in rows], float)
    votes = np.array([row.get("votes") for row in rows], float)[:, None]
    counted = np.maximum(np.nan_to_num(votes, nan=1e9) - 1, 0)  # not told how many: enough
    share = counted / (counted + PRIOR_VOTES)
    return np.where(np.isnan(own), usual, np.sqrt(share * own**2 + (1 - share) * usual**2))


def _corpus(number: int, shards: Shards) -> tuple[list[dict], list[tuple[int, str, int]]]:
    """Rows and places of one corpus."""
    rows, where = [], []
    for name in shards.names():
        for r, row in enumerate(shards.table(name, COLUMNS).to_pylist()):
            rows.append(row | {k: json.loads(row[k]) for k in ("chain", "severities") if row.get(k)})
            where.append((number, name, r))
    return rows, where


def read(corpora: Sequence[Shards], key: str | None) -> dict[str, Clips]:
    """The splits "train" and "val" of corpora, with the features of `key` where they are prepared (None: waveforms).

    UsageError where one of the splits is empty, or where they leak.
    """
    rows, where, means = [], [], []
    for number, shards in enumerate(corpora):
        found = _corpus(number, shards)
        rows, where = rows + found[0], where + found[1]
        mean = np.array([[row[d] for d in DIMENSIONS] for row in found[0]], float).reshape(-1, len(DIMENSIONS))
        if any(row.get("chain") is not None for row in found[0]):
            mean[:, 0] = panel_mos(found[0])
        means.append(mean)
    if not rows:
        raise UsageError("no clip of the corpus could be read")
    if shared := leakage(rows):
        raise UsageError(f"the corpus would be judged by what it trains on: {shared}")
    mean, split = np.concatenate(means), np.array([row["split"] for row in rows])
    std, paired = panel_spread(rows, mean), np.array([row.get("paired", True) for row in rows])
    clips = Clips(rows, list(corpora), where, mean, std, paired, key)
    out = {name: clips.only(np.flatnonzero(split == name)) for name in ("train", "val")}
    for name, clips in out.items():
        if not len(clips):
            raise UsageError(f"no clip of the corpus is in the split {name}")
    return out
