"""`--level`: every recording at one active speech level, for where the listener turns the volume up or down.

Codecs and synthesisers are compared so (MUSHRA, ITU-T P.800); what a caller hears of a quiet line is not.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sqllm.audio.evidence import Evidence
from sqllm.audio.io import to_int16
from sqllm.errors import UsageError

LOUDEST, QUIETEST = -10.0, -60.0  # dBov that may be asked for
MOST_DB = 30.0  # by which nothing is raised or lowered further: what is as good as silent stays so


def checked(level_db: float | None) -> float | None:
    if level_db is not None and not QUIETEST <= level_db <= LOUDEST:
        raise UsageError(
            f"level {level_db:g}: give the active speech level in dBov, from {QUIETEST:g} to {LOUDEST:g}; -26 is usual"
        )
    return level_db


def gains(blocks: Iterable[np.ndarray], level_db: float) -> np.ndarray:
    """The factor for each channel of `blocks` (float32 [n, channels], full scale 1.0) that brings its active speech
    level (ITU-T P.56) to `level_db` (dBov), as far as its peaks allow. 1 where nobody speaks; none without blocks."""
    facts: list[Evidence] = []
    peaks = np.zeros(0)
    for block in blocks:
        if not facts:
            facts, peaks = [Evidence() for _ in block.T], np.zeros(block.shape[1])
        for known, samples in zip(facts, block.T, strict=True):
            known.update(samples)
        peaks = np.maximum(peaks, np.abs(block).max(0, initial=0))
    levels = [known.result()["level_db"] for known in facts]
    raised = np.array([0.0 if level is None else level_db - level for level in levels])
    room = np.maximum(-20 * np.log10(np.maximum(peaks, 1e-6)), 0.0)
    return 10 ** (np.minimum(np.clip(raised, -MOST_DB, MOST_DB), room) / 20)


def raised(samples: np.ndarray, level_db: float) -> np.ndarray:
    """int16 [n] at that level."""
    floats = samples.astype(np.float32) / 32768
    return to_int16(floats * gains([floats[:, None]], level_db)[0])
