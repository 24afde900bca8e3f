"""The worst recordings: their whole rows, and the few seconds of each that sound worst."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from pyarrow import dataset

from pipelines.results import Results
from sqllm.audio import RATE
from sqllm.audio.io import open_sound, to_int16
from sqllm.errors import AudioError


@dataclass
class Clip:
    """A row and, unless `problem` says why not, int16 [n] at `RATE` of its worst window."""

    row: dict
    samples: np.ndarray | None = None
    problem: str | None = None

    @property
    def start_s(self) -> float:
        return self.row["worst_start_s"]

    @property
    def end_s(self) -> float:
        """The end of the worst window."""
        ends = (window["end_s"] for window in self.row["windows"] or () if window["start_s"] == self.start_s)
        return next(ends, self.start_s + 10.0)

    def flac(self) -> bytes:
        """What the model heard, bit by bit."""
        file = io.BytesIO()
        soundfile.write(file, self.samples, RATE, format="FLAC")
        return file.getvalue()


def clips(results: Results, worst: Sequence[dict]) -> list[Clip]:
    """The rows of `gather`'s worst with all their columns, in their order, and their audio where it is still there."""
    whole = {}
    for part in {row["part"].path: row["part"] for row in worst}.values():
        ids = [row["recording_id"] for row in worst if row["part"].path == part.path]
        for _, batch in results.batches(results.data.schema.names, [part], dataset.field("recording_id").isin(ids)):
            whole |= {(row["recording_id"], row["channel"]): row for row in batch.to_pylist()}
    return [_heard(Clip(whole[row["recording_id"], row["channel"]])) for row in worst]


def _heard(clip: Clip) -> Clip:
    try:
        clip.samples = excerpt(clip.row["uri"], clip.row["channel"], clip.start_s, clip.end_s)
    except AudioError as error:
        clip.problem = error.detail
    except Exception as error:  # a decoder's own: the report goes on without this clip
        clip.problem = f"{type(error).__name__}: {error}"
    return clip


def excerpt(uri: str, channel: int, start_s: float, end_s: float) -> np.ndarray:
    """int16 [n] at `RATE` of a span of a channel; AudioError where it cannot be read. Holds no more than the span."""
    first, last, at, parts = round(start_s * RATE), round(end_s * RATE), 0, []
    with open_sound(uri) as sound:
        for block in sound.blocks:
            if at + len(block) > first:
                parts.append(to_int16(block[max(first - at, 0) : last - at, channel]))
            at += len(block)
            if at >= last:
                break
    if not parts:
        raise AudioError("DECODE", "the recording is shorter than it was")
    return np.concatenate(parts)
