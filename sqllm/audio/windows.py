"""Windows of a channel, and the rules for what is scored.

- A channel shorter than `MIN_S` is TOO_SHORT.
- Up to `WINDOW_S` it is one window of its own length. A longer one is cut every `WINDOW_S`, and the last window is
  shifted back so that it is full too: it overlaps the one before; nothing is padded or dropped.
- A frame of `FRAME_S` is speech when it is above `SILENCE_DB`, within `SPEECH_RANGE_DB` of the window's loudest frames,
  and `SPEECH_OVER_FLOOR_DB` above the window's noise floor (the 10th percentile of its frames, digital silence apart).
  So a steady noise or tone is not speech, however loud; music and babble pass.
- A window with less than `MIN_SPEECH_S` of speech has `speech_s` 0: it is listed, without scores, and does not count.
- A channel in which no window counts is SILENT.

Levels are dB relative to full scale (dBov as in ITU-T G.100.1: a full-scale square wave is 0).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sqllm.audio import RATE

WINDOW_S = 10.0
MIN_S = 0.5
FRAME_S = 0.02
SILENCE_DB = -70.0
SPEECH_RANGE_DB = 35.0
SPEECH_OVER_FLOOR_DB = 3.0
MIN_SPEECH_S = 0.1

WINDOW = int(WINDOW_S * RATE)
FRAME = int(FRAME_S * RATE)


class Windower:
    """Cuts a stream of samples into windows (start in samples, int16 [n])."""

    def __init__(self):
        self.total = 0  # samples seen
        self._last = np.zeros(0, np.int16)  # the window given out last, for the overlap at the end
        self._parts: list[np.ndarray] = []
        self._held = 0

    def update(self, samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take int16 [n]; give every window that is complete."""
        self.total += len(samples)
        self._parts.append(samples)
        self._held += len(samples)
        if self._held < WINDOW:
            return
        held = np.concatenate(self._parts)
        first, rest = self.total - len(held), len(held) % WINDOW
        self._parts, self._held = [held[len(held) - rest :].copy()], rest
        for at in range(0, len(held) - rest, WINDOW):
            self._last = held[at : at + WINDOW].copy()
            yield first + at, self._last

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """Give the last window, when the end of the stream is not the end of a window."""
        if self._held:
            window = np.concatenate([self._last, *self._parts])[-WINDOW:]
            yield self.total - len(window), window


def frame_levels(samples: np.ndarray) -> np.ndarray:
    """int16 [n] -> dB [n // FRAME] of frames of `FRAME_S`; digital silence is -120."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float32) / 32768
    return 10 * np.log10(np.einsum("ij,ij->i", frames, frames) / FRAME + 1e-12)


def speech_frames(samples: np.ndarray) -> np.ndarray:
    """int16 [n] of one window -> bool [n // FRAME]: which frames are speech, by the rules above."""
    levels = frame_levels(samples)
    audible = levels[levels > SILENCE_DB]
    if not len(audible):
        return np.zeros(len(levels), bool)
    sounding = levels[levels > -90]
    floor = np.percentile(sounding, 10) if len(sounding) > 0.9 * len(levels) else -90.0
    least = max(SILENCE_DB, floor + SPEECH_OVER_FLOOR_DB, np.percentile(audible, 95) - SPEECH_RANGE_DB)
    speech = levels > least
    return speech if speech.sum() * FRAME_S >= MIN_SPEECH_S else np.zeros(len(levels), bool)
