"""First the scores: projector, score norm and the LoRA of the layers below `score_layers` learn the answer tree, and
the checklist of faults.

The loss is the cross-entropy between the tree's 41 leaves and a panel's distribution (`soft_target` of mean and
spread), and between the checklist's digits and the true strengths; what is said beside them counts against it. A batch
is single- or double-ended, and may hold a second listener beside the panel, whose targets follow his profile.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sqllm.audio.evidence import describe
from sqllm.corpus.profiles import Profile, load_profiles
from sqllm.model import checklist, store
from sqllm.model.checklist import check
from sqllm.model.scoring import moments, soft_target
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training.data import Clips, agreement
from sqllm.training.loop import fit


def targets(clips: Clips, at: np.ndarray, profile: Profile | None) -> Tensor:
    """[k, 5, 41] of the panel, or of one listener."""
    mean, std = clips.mean[at], clips.std[at]
    if profile:
        mean, std = profile.target(mean, std)
    return soft_target(torch.from_numpy(mean).float(), torch.from_numpy(std).float())


def train(
    model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: dict, steps: int, batch: int = 8,
    lr: float = 5e-4, double_ended: float = 0.3, listeners: float = 0.4, checked: float = 2.0, **options,
) -> None:  # fmt: skip
    """Train in place, with checkpoints in `out`; `options` are those of `fit`."""
    clips, profiles = data["train"], [p for p in load_profiles().values() if p.trained]

    def loss(rng: np.random.Generator) -> Tensor:
        at = rng.integers(len(clips), size=batch)
        heard = [None]  # the panel
        if rng.random() < listeners:
            heard.append(profiles[rng.integers(len(profiles))])
        reference = clips.features(at, reference=True) if rng.random() < double_ended else None
        log = model.score(clips.features(at), reference, [p.words if p else "" for p in heard])
        target = torch.stack([targets(clips, at, p) for p in heard], dim=1)
        value = -(target.to(log.device) * log).sum(-1).mean()
        part = slice(batch // 2 or 1)  # the checklist is longer than the tree
        facts = [clips.told(i, rng) for i in at[part]]
        log = check(model, facts, clips.features(at[part]), None if reference is None else reference[part])
        return value - checked * (checklist.target(clips.costs(at[part])).to(log.device) * log).sum(-1).mean()

    store.mark_trainable(model, "scores")
    figures = partial(validate, model, data["val"])
    fit(model, loss, out / "scores.pt", steps, lr, seed=1, settings=settings, validate=figures, **options)
    store.mark_trainable(model)


@torch.inference_mode()
def validate(model: SpeechQualityLLM, clips: Clips, most: int = 160, batch: int = 16) -> dict[str, float]:
    """`data.agreement` on unseen speakers, and the mean mass on the leaves."""
    model.eval()
    means, masses, costs = [], [], []
    for first in range(0, min(most, len(clips)), batch):
        at = np.arange(first, min(first + batch, most, len(clips)))
        with torch.autocast(model.device.type, torch.bfloat16):
            mean, _, mass = moments(model.score(clips.features(at)))
            costs.append(check(model, [describe(clips.facts(i)) for i in at], clips.features(at)))
        means.append(mean[:, 0])
        masses.append(mass)
    model.train()
    found = np.array([list(c.values()) for c in checklist.costs(torch.cat(costs))])
    figures = agreement(clips, torch.cat(means).float().cpu().numpy(), found)
    return figures | {"mass": float(torch.cat(masses).mean())}
