"""Simulated clips of speakers that training has not heard, with what was done to them and what a panel would say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sqllm import DIMENSIONS
from sqllm.audio.degrade import Impairment
from sqllm.audio.io import to_int16
from sqllm.errors import UsageError
from sqllm.model.scoring import moments
from sqllm.training.data import panel_mos
from sqllm.training.features import samples

BATCH = 8


@dataclass
class Simulated:
    index: int
    speaker: str
    window: np.ndarray  # int16, 16 kHz
    reference: np.ndarray
    chain: list[Impairment]
    mean: np.ndarray  # [5] what a panel would say


def read(corpus: Path, most: int) -> list[Simulated]:
    """The first clips of the split val in the shards of `sqllm corpus simulate`; UsageError where there are none."""
    rows = list(islice((row for path in sorted(corpus.glob("clips-*.parquet")) for row in _val(path)), most))
    if not rows:
        raise UsageError(f"no clips of the split val in {corpus}: give the shards of `sqllm corpus simulate`")
    mos = panel_mos([row | {"severities": json.loads(row["severities"])} for row in rows])
    out = []
    for row, panel in zip(rows, mos, strict=True):
        chain = [Impairment(s["kind"], s["params"], [tuple(x) for x in s["spans"]]) for s in json.loads(row["chain"])]
        audio, reference = (to_int16(samples(row[name])) for name in ("audio", "reference"))
        mean = np.array([panel, *(row[d] for d in DIMENSIONS[1:])])
        out.append(Simulated(row["index"], row["speaker"], audio, reference, chain, mean))
    return out


def _val(path: Path) -> list[dict]:
    return [row for row in pq.read_table(path).to_pylist() if row["split"] == "val"]


@torch.inference_mode()
def hear(predictor, windows: Sequence[np.ndarray]) -> Tensor:
    """Pooled features [n, layers, tokens, width] of windows of any length."""
    return torch.cat([predictor._features([window]) for window in windows])


@torch.inference_mode()
def rate(
    predictor, audio: Tensor, reference: Tensor | None = None, listeners: Sequence[str] = ("",)
) -> tuple[np.ndarray, np.ndarray]:
    """Means and spreads [n, listeners, 5] of what was heard."""
    parts = []
    for first in range(0, len(audio), BATCH):
        at = slice(first, first + BATCH)
        log = predictor.model.score(audio[at], None if reference is None else reference[at], listeners)
        parts.append([x.cpu().numpy() for x in moments(log)[:2]])
    mean, std = (np.concatenate(x) for x in zip(*parts, strict=True))
    return mean, std
