"""Scores and words together, where scores leave the language model after its last layer, as in the paper: everything
that is trained learns the answer tree and the answers to questions about the same clips, half of them double-ended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sqllm.model import store
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training import scores, words
from sqllm.training.data import Clips
from sqllm.training.loop import Loss, fit
from sqllm.training.settings import Settings

DOUBLE_ENDED, QUESTIONS, PAPER = 0.5, 2, 0.5


@dataclass
class Draw:
    clips: Clips
    batch: int
    checklist: bool

    def __call__(self, rng: np.random.Generator) -> tuple[scores.Part, list[words.Asked]]:
        at, double = self.clips.draw(self.batch, rng, DOUBLE_ENDED)
        scored = scores.Draw(self.clips, self.batch, self.checklist).part(at, double, rng)
        return scored, words.Draw(self.clips, self.batch, self.checklist, QUESTIONS, PAPER).asked(at, double, rng)


def loss(model: SpeechQualityLLM, scored: scores.Part, asked: list[words.Asked]) -> Loss:
    audio, reference = scored.audio.features(model), scored.reference and scored.reference.features(model)
    found = scores.loss(model, scored, audio, reference)
    packed = [words.pack(model, about, reference is not None) for about in asked]
    value = found.value + words.loss(model, packed, audio, reference)
    return Loss(value, found.clips, found.tokens + sum(len(p.ids) for p in packed))


def train(model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: Settings, **options) -> None:
    """Train in place, with checkpoints in `out`; `options` are those of `fit`."""

    draw = Draw(data["train"], settings.batch, model.config.checklist)
    fit(model, draw, lambda part: loss(model, *part), out / "joint.pt", settings.steps, settings, seed=3,
        validate=partial(scores.validate, model, data["val"]), **options)  # fmt: skip
    store.mark_trainable(model)
