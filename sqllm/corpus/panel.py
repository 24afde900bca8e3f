"""Teachers of mos for simulated clips.

DistillMOS (MIT) on the degraded signal, PESQ (ITU-T P.862.2) against the clean one. Both are blind to level, so the
level term comes from `sqllm.corpus.ratings`. Needs `pip install 'sqllm[label]'`.
"""

from __future__ import annotations

import io
import sys
import types
from contextlib import redirect_stdout

import numpy as np
import torch

from sqllm.audio import RATE
from sqllm.model.store import autocast


def load_distillmos() -> torch.nn.Module:
    """float32 [B, n] at 16 kHz -> mos [B]."""
    # distillmos imports torchaudio for its command line only, and torchaudio has no build beside CPU torch
    stub = "torchaudio" not in sys.modules
    if stub:
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    try:
        from distillmos import ConvTransformerSQAModel
    finally:
        if stub:
            del sys.modules["torchaudio"]
    with redirect_stdout(io.StringIO()):  # it prints where its weights are from
        return ConvTransformerSQAModel().eval()


def pesq_wb(degraded: np.ndarray, reference: np.ndarray) -> float | None:
    """Wide-band MOS-LQO of float32 16 kHz signals; None where PESQ finds no utterance."""
    from pesq import NoUtterancesError, pesq

    try:
        return float(pesq(RATE, reference, degraded, "wb"))
    except NoUtterancesError:
        return None


class Panel:
    def __init__(self, device: str = "cpu"):
        self.model, self.device = load_distillmos().to(device), device

    @torch.inference_mode()
    def rate(self, degraded: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
        """`distillmos` and `pesq` (None where it finds no utterance) of float32 16 kHz signals."""
        with autocast(self.device):
            mos = float(self.model(torch.from_numpy(degraded)[None].to(self.device)))
        return {"distillmos": mos, "pesq": pesq_wb(degraded, reference)}
