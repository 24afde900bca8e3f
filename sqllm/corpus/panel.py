"""Teachers of mos for simulated clips.

DistillMOS (MIT) on the degraded signal, PESQ (ITU-T P.862.2) and ViSQOL (speech mode) against the clean one. All are
blind to level, so the level term comes from `sqllm.corpus.ratings`. Needs `pip install 'sqllm[label]'`, and for
DistillMOS `pip install --no-deps distillmos xls_r_sqa`.
"""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np
import torch

from sqllm.audio import RATE
from sqllm.model.store import autocast

DEAF = {  # each teacher to these kinds: PESQ wants the waveform back, ViSQOL does not mind phases that are made up
    "distillmos": set(), "pesq": {"vocoder", "world"}, "visqol": {"vocoder"},
}  # fmt: skip
TEACHERS = tuple(DEAF)


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
    """Wide-band MOS-LQO of float32 16 kHz signals; None where PESQ finds no utterance, or too short a one."""
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    try:
        return float(pesq(RATE, reference, degraded, "wb"))
    except (NoUtterancesError, BufferTooShortError):
        return None


def load_visqol() -> Callable[[np.ndarray, np.ndarray], float | None]:
    """MOS-LQO of float32 16 kHz signals, degraded and reference; None where it has nothing to compare."""
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="speech", use_lattice_model=True)

    def visqol(degraded: np.ndarray, reference: np.ndarray) -> float | None:
        try:
            mos = float(api.measure_from_arrays(reference, degraded, RATE).moslqo)
        except (ValueError, IndexError):  # too short
            return None
        return mos if np.isfinite(mos) else None

    return visqol


class Panel:
    def __init__(self, device: str = "cpu"):
        self.model, self.device, self.visqol = load_distillmos().to(device), device, load_visqol()

    @torch.inference_mode()
    def rate(self, degraded: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
        """`distillmos`, `pesq` and `visqol` (None where one cannot judge) of float32 16 kHz signals."""
        with autocast(self.device):
            mos = float(self.model(torch.from_numpy(degraded)[None].to(self.device)))
        against = {"pesq": pesq_wb(degraded, reference), "visqol": self.visqol(degraded, reference)}
        return {"distillmos": mos} | against
