from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How to train; the same names as the options of `sqllm train`."""

    score_steps: int = 2000
    word_steps: int = 1000
    batch: int = 8  # clips in a part of a step of `scores`; a quarter of that in one of `words`
    parts: int = 1  # of a step, in each worker: gradients are accumulated over them
    lr: float = 5e-4
    listen_steps: int = 4000  # of a projector with context, on four times as many clips; 0: it can listen already
    fresh: bool = False  # leave the weights that the base was trained to
