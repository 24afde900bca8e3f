"""A recording on its way to a score: bytes -> `Chunk`s of windows -> window scores -> one row per channel.

`cut` runs where CPUs are, `Predictor.score_chunks` where the model is, `assemble` anywhere. The notebook, the batch job
and the endpoint call these same three, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

RATE = 16_000  # Hz, of everything after decoding
WINDOW_S = 10.0
DIMENSIONS = ("mos", "noi", "col", "dis", "loud")


@dataclass
class Chunk:
    """Up to `CHUNK_WINDOWS` consecutive windows of one channel of one recording.

    A recording gives, for each channel, one or more chunks in order; the last one has `row` filled with everything that
    is known without the model (status, durations, evidence, alignment). A recording that cannot be opened gives exactly
    one chunk without windows, `channel` None and a row with status "failed".
    """

    uri: str
    channel: int | None
    index: int  # position among the chunks of this channel
    windows: list[np.ndarray] = field(default_factory=list)  # int16, 16 kHz, each of its own length up to 10 s
    references: list[np.ndarray] | None = None  # the aligned reference of each window, same lengths
    starts_s: list[float] = field(default_factory=list)
    speech_s: list[float] = field(default_factory=list)  # seconds of speech in each window; 0: the window does not count
    evidence: list[str] = field(default_factory=list)  # measured facts of each window, in words, for the prompt
    row: dict | None = None


def cut(uri: str, reference: str | None = None) -> Iterator[Chunk]:
    """Decode, check, align and window one recording in bounded memory. Never raises for a bad file."""
    raise NotImplementedError


def assemble(scored: Iterable[tuple[Chunk, dict | None]]) -> dict:
    """One output row from the chunks of ONE channel and their window scores, in order (DESIGN.md's columns)."""
    raise NotImplementedError
