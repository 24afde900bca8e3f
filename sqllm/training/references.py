"""What a reference adds: the part of a projector with context that hears how a recording differs from its reference
learns by itself, on double-ended batches, while all that it speaks to stays as it is. It cannot change a score of a
recording that has no reference.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sqllm.model import store
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training import scores
from sqllm.training.data import Clips
from sqllm.training.loop import fit
from sqllm.training.settings import Settings


def train(model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: Settings, **options) -> None:
    """Train in place, with checkpoints in `out`; `options` are those of `fit`. Without pairs there is nothing to do."""
    if not data["train"].paired.any():
        return
    store.mark_trainable(model, "references")
    draw = scores.Draw(data["train"], settings.batch, model.config.checklist, double_ended=1.0)
    fit(model, draw, partial(scores.step, model), out / "references.pt", settings.pair_steps, settings, seed=5,
        validate=partial(scores.validate, model, data["val"], double=True), **options)  # fmt: skip
    store.mark_trainable(model)
