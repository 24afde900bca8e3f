"""Before anything else the projector learns to listen, and the encoder where it is trained: a linear head on the mean
of the tokens rates the clip and its faults, and is thrown away.

The language model then finds in its audio tokens what it would else have to dig out through all its layers; a step
without it is a hundred times cheaper than one with it. The head alone is also what a plain regression makes of the same
features and labels, and its figures are what the language model has to match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sqllm import DIMENSIONS
from sqllm.corpus.ratings import CLEAN
from sqllm.faults import PHRASES
from sqllm.model import store
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training.data import Clips, Sound, agreement
from sqllm.training.loop import Loss, fit
from sqllm.training.settings import Settings

FAULTS = 4.0  # weight of a fault's error against a score's


class Head(nn.Module):
    """Pooled features [B, ...] -> what each fault costs [B, faults] and the scores [B, 5]."""

    def __init__(self, projector: nn.Module, encoder: Sequence[nn.Module] = ()):
        super().__init__()
        self.projector = projector
        self.encoder = nn.ModuleList(encoder)  # what of it is trained; it is heard before
        self.linear = nn.Linear(projector.linear.out_features, len(PHRASES) + len(DIMENSIONS))
        self.compared = nn.Linear(projector.linear.out_features, len(PHRASES) + len(DIMENSIONS))

    @property
    def device(self) -> torch.device:
        return self.linear.weight.device

    def forward(self, audio: Tensor, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
        tokens = self.projector(audio, reference)
        out = self.linear(tokens[0].mean(1))
        if reference is not None:
            out = out + self.compared(tokens[1].mean(1))
        costs, scores = out.split([len(PHRASES), len(DIMENSIONS)], dim=1)
        return costs, scores + torch.tensor(list(CLEAN.values()), device=out.device)


@dataclass
class Part:
    """Of a step: clips, what each fault costs and what they are rated; NaN where nobody knows."""

    audio: Sound
    reference: Sound | None
    costs: np.ndarray
    scores: np.ndarray


@dataclass
class Draw:
    clips: Clips
    batch: int
    double_ended: float = 0.4

    def __call__(self, rng: np.random.Generator) -> Part:
        at, double = self.clips.draw(self.batch, rng, self.double_ended)
        reference = self.clips.sound(at, reference=True) if double else None
        return Part(self.clips.sound(at), reference, self.clips.costs(at), self.clips.mean[at])


def train(model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: Settings, **options) -> None:
    """Train the projector, and the encoder where it is trained, in place, with checkpoints in `out`; `options` are
    those of `fit`."""
    model.requires_grad_(False)
    head = Head(model.projector, store.trained_of_encoder(model)).to(model.device).requires_grad_(True)

    def step(part: Part) -> Loss:
        costs, scores = head(part.audio.features(model), part.reference and part.reference.features(model))
        value = _error(scores, part.scores) + FAULTS * _error(costs, part.costs)
        return Loss(value, len(scores), 0)

    draw = Draw(data["train"], 4 * settings.batch)
    fit(head, draw, step, out / "listen.pt", settings.listen_steps, settings, seed=4,
        validate=partial(validate, model, head, data["val"]), **options)  # fmt: skip
    store.mark_trainable(model)


def _error(found: Tensor, true: np.ndarray) -> Tensor:
    """Mean squared error of what is known; zero where nothing is."""
    wrong = found - torch.from_numpy(true).to(found)
    return torch.where(wrong.isnan(), 0.0, wrong).square().sum() / max(1, int(np.isfinite(true).sum()))


@torch.inference_mode()
def validate(model: SpeechQualityLLM, head: Head, clips: Clips, batch: int = 32) -> dict[str, float]:
    """`data.agreement` on unseen speakers, single-ended."""
    costs, scores = [], []
    for first in range(0, len(clips), batch):
        at = np.arange(first, min(first + batch, len(clips)))
        found = head(clips.sound(at).features(model))
        costs.append(found[0].float().cpu())
        scores.append(found[1].float().cpu())
    return agreement(clips, torch.cat(scores).numpy(), torch.cat(costs).numpy())
