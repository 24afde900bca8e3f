"""Before anything else the projector learns to listen: a linear head on the mean of its tokens rates the clip and its
faults, and is thrown away.

The language model then finds in its audio tokens what it would else have to dig out through all its layers; a step
without it is a hundred times cheaper than one with it. The head alone is also what a plain regression makes of the same
features and labels, and its figures are what the language model has to match.
"""

from __future__ import annotations

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
from sqllm.training.data import Clips, agreement
from sqllm.training.loop import fit

FAULTS = 4.0  # weight of a fault's error against a score's


class Head(nn.Module):
    """Pooled features [B, ...] -> what each fault costs [B, faults] and the scores [B, 5]."""

    def __init__(self, projector: nn.Module):
        super().__init__()
        self.projector = projector
        self.linear = nn.Linear(projector.linear.out_features, len(PHRASES) + len(DIMENSIONS))
        self.compared = nn.Linear(projector.linear.out_features, len(PHRASES) + len(DIMENSIONS))

    def forward(self, audio: Tensor, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
        tokens = self.projector(audio, reference)
        out = self.linear(tokens[0].mean(1))
        if reference is not None:
            out = out + self.compared(tokens[1].mean(1))
        costs, scores = out.split([len(PHRASES), len(DIMENSIONS)], dim=1)
        return costs, scores + torch.tensor(list(CLEAN.values()), device=out.device)


def train(
    model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: dict, steps: int, batch: int = 32,
    lr: float = 5e-4, double_ended: float = 0.4, **options,
) -> None:  # fmt: skip
    """Train the projector in place, with checkpoints in `out`; `options` are those of `fit`."""
    clips = data["train"]
    model.requires_grad_(False)
    head = Head(model.projector).to(model.device).requires_grad_(True)

    def loss(rng: np.random.Generator) -> Tensor:
        at = rng.integers(len(clips), size=batch)
        reference = clips.features(at, reference=True) if rng.random() < double_ended else None
        costs, scores = head(*_on(model.device, clips.features(at), reference))
        wrong = scores - torch.from_numpy(clips.mean[at]).to(scores), costs - clips.costs(at).to(costs)
        return wrong[0].square().mean() + FAULTS * wrong[1].square().mean()

    figures = partial(validate, head, data["val"])
    fit(head, loss, out / "listen.pt", steps, lr, seed=3, settings=settings, validate=figures, **options)
    store.mark_trainable(model)


def _on(device: torch.device, *signals: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.to(device) for x in signals]


@torch.inference_mode()
def validate(head: Head, clips: Clips, batch: int = 32) -> dict[str, float]:
    """`data.agreement` on unseen speakers, single-ended."""
    device, costs, scores = head.linear.weight.device, [], []
    for first in range(0, len(clips), batch):
        found = head(clips.features(np.arange(first, min(first + batch, len(clips)))).to(device))
        costs.append(found[0].float().cpu())
        scores.append(found[1].float().cpu())
    return agreement(clips, torch.cat(scores).numpy(), torch.cat(costs).numpy())
