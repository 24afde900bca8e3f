"""Simulated clips of speakers that training has not heard, with what was done to them and what a panel would say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sqllm import DIMENSIONS
from sqllm.audio.degrade import Impairment
from sqllm.audio.io import to_int16
from sqllm.corpus.shards import samples
from sqllm.errors import UsageError
from sqllm.model.scoring import moments
from sqllm.training.data import panel_mos

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
    paths = sorted(corpus.glob("clips-*.parquet"))
    labels = [(path, r, row) for path in paths for r, row in enumerate(_labels(path))]
    mos = panel_mos([row for _, _, row in labels]) if labels else []  # teachers are scaled over the whole corpus
    val = [(*label, panel) for label, panel in zip(labels, mos, strict=True) if label[2]["split"] == "val"][:most]
    if not val:
        raise UsageError(f"no clips of the split val in {corpus}: give the shards of `sqllm corpus simulate`")
    out, audio = [], {path: pq.read_table(path, columns=["audio", "reference"]) for path in {v[0] for v in val}}
    for path, r, row, panel in val:
        chain = [Impairment(s["kind"], s["params"], [tuple(x) for x in s["spans"]]) for s in row["chain"]]
        window, reference = (to_int16(samples(audio[path][name][r].as_py())) for name in ("audio", "reference"))
        mean = np.array([panel, *(row[d] for d in DIMENSIONS[1:])])
        out.append(Simulated(row["index"], row["speaker"], window, reference, chain, mean))
    return out


def _labels(path: Path) -> list[dict]:
    names = [name for name in pq.read_schema(path).names if name not in ("audio", "reference")]
    rows = pq.read_table(path, columns=names).to_pylist()
    return [row | {name: json.loads(row[name]) for name in ("chain", "severities")} for row in rows]


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
