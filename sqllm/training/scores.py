"""Scores: projector, score norm and the LoRA that they pass through learn the answer tree and the checklist of faults.

The loss is the cross-entropy between the tree's 41 leaves and a panel's distribution (`soft_target` of mean and
spread), and between the checklist's digits and the true strengths; what is said beside them counts against it. What
nobody rated has no loss. A batch is single- or double-ended, and may hold a second listener beside the panel, whose
targets follow his profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor

from sqllm.audio.evidence import describe
from sqllm.corpus.profiles import Profile, load_profiles
from sqllm.model import checklist, store
from sqllm.model.checklist import check, lay_out
from sqllm.model.scoring import moments, soft_target
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training.data import Clips, Sound, agreement
from sqllm.training.loop import Loss, fit
from sqllm.training.settings import Settings

CHECKED = 2.0  # weight of the checklist beside the tree
LISTENERS = 0.4  # share of batches with a second listener


def trained_profiles() -> list[Profile]:
    return [p for p in load_profiles().values() if p.trained]


@dataclass
class Part:
    """Of a step: clips, and what they should be given."""

    audio: Sound
    reference: Sound | None
    listeners: list[str]
    target: np.ndarray  # [k, listeners, 5, 41], NaN where nobody knows
    checked: list[int]  # the clips whose checklist is learned,
    facts: list[str]  # what is told of them,
    costs: np.ndarray  # and their faults [checked, faults]


def targets(clips: Clips, at: Sequence[int], profile: Profile | None) -> np.ndarray:
    """[k, 5, 41] of the panel, or of one listener."""
    mean, std = clips.mean[at], clips.std[at]
    if profile:
        mean, std = profile.target(mean, std)
    return soft_target(torch.from_numpy(mean).float(), torch.from_numpy(std).float()).numpy()


@dataclass
class Draw:
    clips: Clips
    batch: int
    checklist: bool
    double_ended: float = 0.3

    def __call__(self, rng: np.random.Generator) -> Part:
        return self.part(*self.clips.draw(self.batch, rng, self.double_ended), rng)

    def part(self, at: np.ndarray, double: bool, rng: np.random.Generator) -> Part:
        clips, profiles = self.clips, trained_profiles()
        heard = [None]  # the panel
        if rng.random() < LISTENERS:
            heard.append(profiles[rng.integers(len(profiles))])
        target = np.stack([targets(clips, at, p) for p in heard], axis=1)
        half = range(max(1, len(at) // 2) if self.checklist else 0)  # the checklist is longer than the tree
        checked = [b for b in half if clips.chain(at[b]) is not None]
        return Part(
            clips.sound(at), clips.sound(at, reference=True) if double else None, [p.words if p else "" for p in heard],
            target, checked, [clips.told(at[b], rng) for b in checked], clips.costs(at[checked]),
        )  # fmt: skip


def loss(model: SpeechQualityLLM, part: Part, audio: Tensor, reference: Tensor | None) -> Loss:
    """`audio`, `reference`: pooled features of the part's clips."""
    log = model.score(audio, reference, part.listeners)
    target = torch.from_numpy(part.target).to(log.device)
    known = target.isfinite().all(-1)
    value = -(target.nan_to_num() * log).sum(-1)[known].mean()
    segments = model.prompt.rating(reference is not None)
    prefix = sum(model.config.audio_tokens if isinstance(s, str) else len(s) for s in segments)
    tokens = len(audio) * (prefix + len(model.tree(tuple(part.listeners))))
    if part.checked:
        under = None if reference is None else reference[part.checked]
        log = check(model, part.facts, audio[part.checked], under)
        target = checklist.target(torch.from_numpy(part.costs).float()).to(log.device)
        value = value - CHECKED * (target * log).sum(-1).mean()
        tokens += sum(len(lay_out(model, facts, reference is not None).ids) for facts in part.facts)
    return Loss(value, len(audio), tokens)


def step(model: SpeechQualityLLM, part: Part) -> Loss:
    return loss(model, part, part.audio.features(model), part.reference and part.reference.features(model))


def train(model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: Settings, **options) -> None:
    """Train in place, with checkpoints in `out`; `options` are those of `fit`."""
    store.mark_trainable(model, "scores")
    draw = Draw(data["train"], settings.batch, model.config.checklist)
    fit(model, draw, partial(step, model), out / "scores.pt", settings.score_steps, settings, seed=1,
        validate=partial(validate, model, data["val"]), **options)  # fmt: skip
    store.mark_trainable(model)


@torch.inference_mode()
def validate(
    model: SpeechQualityLLM, clips: Clips, most: int = 160, batch: int = 16, double: bool = False
) -> dict[str, float]:
    """`data.agreement` on at most so many clips that are not trained on, and the mean mass on the leaves.

    `double`: those that have a reference, with it."""
    chosen = np.flatnonzero(clips.paired) if double else np.arange(len(clips))
    if len(chosen) > most:  # of all corpora some
        chosen = chosen[np.linspace(0, len(chosen) - 1, most).round().astype(int)]
    model.eval()
    for module in model.modules():
        if isinstance(module, Linear4bit):  # in evaluation a CPU repacks its weights, and no gradient passes them after
            module.train()
    means, masses, costs = [], [], []
    for first in range(0, len(chosen), batch):
        at = chosen[first : first + batch]
        with store.autocast(model.device):
            audio = clips.sound(at).features(model)
            reference = clips.sound(at, reference=True).features(model) if double else None
            mean, _, mass = moments(model.score(audio, reference))
            if model.config.checklist:
                costs.append(check(model, [describe(clips.facts(i)) for i in at], audio, reference))
        means.append(mean[:, 0])
        masses.append(mass)
    model.train()
    if not means:
        return {}
    found = np.array([list(c.values()) for c in checklist.costs(torch.cat(costs))]) if costs else None
    figures = agreement(clips.only(chosen), torch.cat(means).float().cpu().numpy(), found)
    return figures | {"mass": float(torch.cat(masses).mean())}
