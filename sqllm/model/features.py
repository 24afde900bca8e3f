"""Waveform -> log-mel, in one batched pass on whatever device the model is on.

The same numbers as transformers' `WhisperFeatureExtractor` and `ASTFeatureExtractor`, within 1e-3, without their loop
over clips in numpy. Input is [B, samples] float32 at 16 kHz, level untouched.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from sqllm.audio import RATE


class WhisperLogMel(nn.Module):
    """[B, samples] -> [B, mel, samples // 160]; dynamic range of 80 dB under each clip's own maximum."""

    def __init__(self, mel_bins: int):
        super().__init__()
        filters = mel_filter_bank(201, mel_bins, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters_MF", torch.tensor(filters.T, dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(400), persistent=False)

    def forward(self, x_BS: Tensor) -> Tensor:
        spectrum = torch.stft(x_BS, 400, 160, window=self.window, return_complex=True)
        mel = self.filters_MF @ (spectrum[..., :-1].abs() ** 2)
        log = mel.clamp(min=1e-10).log10()
        return (torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


class ASTLogMel(nn.Module):
    """[B, samples] -> [B, frames, mel], Kaldi filter bank, padded with zeros to `frames` and normalised as AST was."""

    def __init__(self, mel_bins: int, frames: int, mean: float = -4.2677393, std: float = 4.5689974):
        super().__init__()
        with warnings.catch_warnings(action="ignore"):  # the lowest of AST's 128 filters are narrower than a bin
            filters = mel_filter_bank(
                257, mel_bins, 20.0, 8000.0, RATE, mel_scale="kaldi", triangularize_in_mel_space=True
            )
        self.register_buffer("filters_FM", torch.tensor(filters, dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(400, periodic=False), persistent=False)
        self.frames, self.mean, self.std = frames, mean, std

    def forward(self, x_BS: Tensor) -> Tensor:
        frames = x_BS.unfold(1, 400, 160)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        power = torch.fft.rfft((frames - 0.97 * before) * self.window, 512).abs() ** 2
        log = (power @ self.filters_FM).clamp(min=1.192092955078125e-07).log()
        log = nn.functional.pad(log, (0, 0, 0, self.frames - log.shape[1]))[:, : self.frames]
        return (log - self.mean) / (self.std * 2)
