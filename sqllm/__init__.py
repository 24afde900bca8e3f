"""Speech quality of recordings, scored and explained by a language model that listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqllm.predictor import Predictor

__all__ = ["DIMENSIONS", "Predictor"]

# Scores from 1 (bad) to 5 (excellent): overall, noisiness, coloration, discontinuity, loudness (ITU-T P.804's names).
DIMENSIONS = ("mos", "noi", "col", "dis", "loud")


def __getattr__(name: str):
    """`Predictor` brings torch: it is imported when it is first asked for."""
    if name == "Predictor":
        from sqllm.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'sqllm' has no attribute {name!r}")
