from __future__ import annotations

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Settings:
    """How to train; the same names as the options of `sqllm train`."""

    score_steps: int = 2000  # 0: it scores as the base does
    word_steps: int = 1000  # 0: it answers as the base does
    listen_steps: int = 4000  # of a projector with context, on four times as many clips; 0: it can listen already
    reference_steps: int | None = None  # of what such a one makes of a reference; None: a quarter of score_steps
    steps: int = 10240  # of a model without `score_layers`, which learns scores and words together
    batch: int = 8  # clips in a part of a step; a quarter of that where words are learned apart
    parts: int = 1  # of a step, in each worker: gradients are accumulated over them
    lr: float = 5e-4  # of LoRA
    fresh_lr: float = 3.0  # what starts from nothing (projector, norms) learns so many times as fast,
    encoder_lr: float = 0.1  # and so an encoder that is trained
    warmup: int = 100
    weight_decay: float = 0.01
    report_every: int = 25  # steps; a checkpoint comes with every eighth report
    gradient_checkpointing: bool = False  # less memory for more computing
    fresh: bool = False  # leave the weights that the base was trained to

    def of_run(self, encoder_training: str) -> dict:
        """What two runs must have in common; the rate of an encoder only where it is trained."""
        return {k: v for k, v in asdict(self).items() if k != "encoder_lr" or encoder_training != "frozen"}

    @property
    def pair_steps(self) -> int:
        return self.score_steps // 4 if self.reference_steps is None else self.reference_steps

    @classmethod
    def of(cls, base: str, **given) -> Settings:
        """What is usual for this base, but for what is given (not None)."""
        return replace(PRESETS.get(base, cls()), **{name: value for name, value in given.items() if value is not None})


PAPER = Settings(batch=4, lr=4e-5, fresh_lr=1.0, encoder_lr=1.0, warmup=128, gradient_checkpointing=True)
PRESETS = {"paper": PAPER, "paper-whisper": PAPER}
