"""A plain regression head on the features that the language model gets, learnt from the same labels: the control that
says what the language model is worth as a judge. Learned layer weights, attention pooling, one hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sqllm import DIMENSIONS
from sqllm.bench import seconds_per_window, speech_like
from sqllm.corpus.shards import Shards
from sqllm.evaluation import simulated, tables
from sqllm.evaluation.tables import ORDER
from sqllm.model.config import ModelConfig, resolve
from sqllm.recording import cut
from sqllm.training import features
from sqllm.training.data import Clips, read

HIDDEN, BATCH, LR = 128, 32, 1e-3


class Head(nn.Module):
    """Pooled features [B, layers, tokens, width] -> scores [B, 5]."""

    def __init__(self, depth: int, width: int):
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(depth))
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(0.1))
        self.attention, self.out = nn.Linear(HIDDEN, len(DIMENSIONS)), nn.Linear(HIDDEN, len(DIMENSIONS))

    def forward(self, x_BLND: Tensor) -> Tensor:
        h_BNH = self.hidden(torch.einsum("l,blnd->bnd", self.layer_logits.softmax(0), x_BLND))
        weights_BN5 = self.attention(h_BNH).softmax(1)
        return 1 + 4 * (weights_BN5 * self.out(h_BNH)).sum(1).sigmoid()


def train(clips: Clips, epochs: int) -> Head:
    torch.manual_seed(1)
    head = Head(*heard(clips, [0]).shape[1::2]).train()
    steps = max(1, epochs * len(clips) // BATCH)
    adamw = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adamw, LR, total_steps=steps + 1, pct_start=0.1)
    rng = np.random.default_rng(1)
    for _ in range(steps):
        at = rng.integers(len(clips), size=BATCH)
        loss = nn.functional.mse_loss(head(heard(clips, at)), torch.from_numpy(clips.mean[at]).float())
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        schedule.step()
    return head.eval()


@torch.inference_mode()
def head(predictor, model: str, corpus: Path, epochs: int, rated: Sequence[dict] = (), ranks: bool = False) -> dict:
    """The head beside the language model, on the split val of `corpus` and on `rated` recordings (rows of
    `corpus.manifest`): correlations of both, their difference (head less language model) with its interval."""
    config, bases = predictor.model.config, resolve(model)
    data = _prepared(config, bases, corpus)
    with torch.inference_mode(False):
        learnt = train(data["train"], epochs)
    clips = data["val"]
    judged = []
    for first in range(0, len(clips), BATCH):
        at = np.arange(first, min(first + BATCH, len(clips)))
        both = simulated.rate(predictor, heard(clips, at))[0][:, 0], learnt(heard(clips, at)).numpy()
        judged += [(("val", row["speaker"], clips.mean[i], *pair))
                   for i, row, *pair in zip(at, (clips.rows[i] for i in at), *both, strict=True)]  # fmt: skip
    simulated_part = tables.comparisons(_judgements(judged))
    found = {"clips": {"train": len(data["train"]), "val": len(clips)}, "simulated, by speaker": _brief(simulated_part)}
    if rated:
        judged = [(row["set"], row["condition"], [row[d] for d in DIMENSIONS], *_heard(predictor, learnt, row["uri"]))
                  for row in rated]  # fmt: skip
        found["rated"] = _brief(tables.comparisons(_judgements(judged), "rho" if ranks else "r"))
    return found


def _prepared(config: ModelConfig, bases: Path, corpus: Path) -> dict[str, Clips]:
    shards, key = Shards.open(str(corpus)), features.features_key(config, bases)
    if missing := features.missing(shards, key):
        encoder = features.load_encoder(config, bases)
        for name in missing:
            features.prepare_shard(encoder, shards, name, key)
    return read([shards], key)


def heard(clips: Clips, indices: Sequence[int]) -> Tensor:
    """Pooled features [k, layers, tokens, width] of a frozen encoder."""
    return torch.from_numpy(clips.sound(indices).x).float()


def _heard(predictor, learnt: Head, uri: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores [5] of both: means over the windows, weighted by their speech."""
    windows, weights = [], []
    for chunk in cut(uri):
        windows += [chunk.windows[i] for i in chunk.counts]
        weights += [chunk.speech_s[i] for i in chunk.counts]
    if not windows:
        return np.full(5, np.nan), np.full(5, np.nan)
    audio = simulated.hear(predictor, windows)
    both = simulated.rate(predictor, audio)[0][:, 0], learnt(audio.float()).numpy()
    return tuple(np.average(x, axis=0, weights=weights) for x in both)


def _judgements(judged: list[tuple]) -> list[dict]:
    """Of (set, condition, votes [5], language model's [5], head's [5]); the language model's first."""
    return [
        {"judge": judge, "ended": "single", "clip": clip, "set": name, "condition": condition, "dim": ORDER[d],
         "true": votes[d], "predicted": float(of[d]) if np.isfinite(of[d]) else None}
        for j, judge in enumerate(("language model", "head"))
        for clip, (name, condition, votes, *scores) in enumerate(judged)
        for of in [scores[j]]
        for d in range(len(DIMENSIONS))
    ]  # fmt: skip


def _brief(compared: list[dict]) -> list[dict]:
    return [
        {"set": c["group"], "dim": c["dim"], "per": c["level"], "n": c["n"], f"{c['statistic']}, head": c["other"],
         f"{c['statistic']}, language model": c["model"], "head less model": c["difference"],
         "95 %": c["difference_95"]}
        for c in compared if c["group"] != "val" or c["level"] == "clip"
    ]  # fmt: skip


@torch.inference_mode()
def tokens(predictor, model: str, corpus: Path, epochs: int, counts: Sequence[int]) -> list[dict]:
    """What more audio tokens bring to the head (r on the split val), and what they cost the language model in windows
    a second. The language model itself is not trained anew: the head stands in for it."""
    config, bases, rows = predictor.model.config, resolve(model), []
    windows = speech_like(4)
    for count in counts:
        data = _prepared(replace(config, audio_tokens=count), bases, corpus)
        with torch.inference_mode(False):
            learnt = train(data["train"], epochs)
        clips = data["val"]
        at = np.arange(len(clips))
        got = np.concatenate([learnt(heard(clips, part)).numpy() for part in np.array_split(at, len(at) // BATCH + 1)])
        r = {f"r of {d}": tables.FIGURES["r"](got[:, i], clips.mean[:, i]) for i, d in enumerate(DIMENSIONS)}
        before, predictor.model.encoder.tokens = predictor.model.encoder.tokens, count
        speed = 1 / seconds_per_window(predictor, windows, False)
        predictor.model.encoder.tokens = before
        rows.append({"audio tokens": count, "train": len(data["train"]), "val": len(clips), **r, "windows/s": speed})
    return rows
