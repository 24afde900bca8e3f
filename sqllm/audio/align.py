"""Where a clean reference lies under a degraded recording: delay, clock drift, and how sure that is.

Per segment of 10 s, which is a window (`windows`): (1) spectral envelopes are correlated over +-`MAX_DELAY_S` for a few
candidate lags; (2) around each, half-second blocks are correlated with phase transform (GCC-PHAT; Knapp and Carter,
1976) and the correlations are stacked along every drift of a grid, so that drift does not smear the peak; the best
stack's peak, in standard deviations, tells same signal from other signal. Speech that a neural codec or a vocoder made
anew has lost the phases: where the envelopes themselves agree more surely than the peak tells, their lag counts. (3) A
jitter buffer moves the delay on the way: sure segments on one line are a stretch, the drift of the clocks is that of
all, and a window has the delay of its stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import soxr
from scipy.signal import fftconvolve, stft

from sqllm.audio import RATE
from sqllm.audio.io import load
from sqllm.audio.windows import FRAME, FRAME_S, Windower, speech_frames
from sqllm.errors import AudioError

LIMIT_S = 1800.0  # pairs are held whole, as int16
MAX_DELAY_S = 5.0
MAX_DRIFT = 600e-6
LEAST_CONFIDENCE = 0.5
LEAST_COVER = 0.5  # of the recording, that the reference must lie under
LEAST_FIT = 0.8  # of the segments: elsewhere it is other speech, and would make faults that are not there

LEAST_SPEECH_S = 0.3  # of a segment
GIVE_UP = 24  # segments with speech, of which none is sure
BLOCK, REACH = RATE // 2, 1024  # samples; lags of a block are searched within +-REACH of the candidate
CANDIDATES = 3
ON_LINE_S = 0.003
PHAT, PHAT_FLOOR = 0.8, 0.02  # exponent of the whitening, and below which share of the mean power a bin is not raised
PEAK_NONE, PEAK_SURE = 6.0, 12.0  # peak over spread: confidence 0 and 1
# Correlation of the envelopes while speech lasts: of 112 neural codings .92 and more, of other speech .55 and less (.74
# for one second of it).
ENV_NONE, ENV_SURE, ENV_LEAST_S = 0.7, 0.9, 1.0
ENV_NEAR = 2  # frames around a candidate that are tried
ENV_HOP, ENV_BANDS = 160, np.geomspace(150, 7000, 13)


@dataclass
class Match:
    """A reference laid under a recording: degraded(t) = reference((t - delay_s) / (1 + drift_ppm / 1e6)).

    That is its beginning; each of `stretches` has a delay of its own.
    """

    delay_s: float | None = None
    drift_ppm: float | None = None
    confidence: float = 0.0
    problem: str | None = None  # why it is not used
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16), repr=False)  # of the reference
    stretches: list[tuple[float, float]] = field(default_factory=list)  # where each begins, and its delay, in samples

    @property
    def used(self) -> bool:
        return self.problem is None

    def row(self) -> dict:
        return {name: getattr(self, name) for name in ("delay_s", "drift_ppm", "confidence", "used")}

    def reference(self, start: int, length: int) -> np.ndarray:
        """The reference under samples start..start+length of the recording, int16; zeros where it has none."""
        pace = 1 + self.drift_ppm * 1e-6
        first = (start - self._delay(start + length / 2)) / pace
        if abs(self.drift_ppm) * 1e-6 * length < 1:
            return _piece(self.samples, round(first), length)
        margin = 256
        piece = _piece(self.samples, round(first) - margin, round(length / pace) + 2 * margin)
        stretched = soxr.resample(piece, RATE, RATE * pace)
        return _piece(stretched, round(margin * pace), length)

    def _delay(self, at: float) -> float:
        """Of the stretch around this sample of the recording, in samples."""
        return [delay for begin, delay in self.stretches if begin <= at][-1]


def match(uri: str, reference: str) -> tuple[list[Match] | None, str | None]:
    """A `Match` for each channel of a recording, or None and the reason why there is none.

    Raises `AudioError` where the recording itself cannot be read.
    """
    try:
        clean = load(reference, LIMIT_S)
    except AudioError as error:
        return None, f"reference: {error.code}, {error.detail}"
    except ValueError as error:
        return None, f"reference: {error}"
    try:
        degraded = load(uri, LIMIT_S)
    except ValueError as error:
        return None, f"recording: {error}, too long to lay a reference under"
    if len(clean) not in (1, len(degraded)):
        return None, f"reference has {len(clean)} channels, the recording {len(degraded)}"
    return [align(channel, clean[i % len(clean)]) for i, channel in enumerate(degraded)], None


def align(degraded: np.ndarray, reference: np.ndarray) -> Match:
    """Lay a reference under a recording: int16 [n] and [m] at 16 kHz. Look at `used` before anything else."""
    found: list[Segment] = []
    windower = Windower()
    for start, segment in chain(windower.update(degraded), windower.finish()):
        speech = speech_frames(segment)
        if len(reference) and speech.sum() * FRAME_S >= LEAST_SPEECH_S:
            found.append(_segment(segment, speech, reference, start))
            if len(found) == GIVE_UP and max(known.sure for known in found) < LEAST_CONFIDENCE:
                break
    if not found:
        return Match(problem="nothing to align: too little speech")
    stretches, drift, confidence, fit = _stretches(found)
    (_, delay), (_, last) = stretches[0], stretches[-1]
    result = Match(round(delay / RATE, 6), round(drift * 1e6, 2), confidence, None, reference, stretches)
    if confidence < LEAST_CONFIDENCE:
        result.problem = f"the reference does not match with confidence ({confidence:.2f})"
    elif fit < LEAST_FIT:
        result.problem = f"the reference fits {100 * fit:.0f} % of the recording only"
    elif abs(result.delay_s) > MAX_DELAY_S + 0.1:
        result.problem = f"the reference is {result.delay_s:.1f} s off, more than {MAX_DELAY_S:g} s"
    else:
        end = last + len(reference) * (1 + drift)
        cover = (min(end, len(degraded)) - max(delay, 0)) / len(degraded)
        if cover < LEAST_COVER:
            result.problem = f"the reference lies under {100 * max(cover, 0):.0f} % of the recording only"
    return result


def _piece(samples: np.ndarray, start: int, length: int) -> np.ndarray:
    """samples[start:start+length] with zeros outside."""
    inside = samples[max(start, 0) : max(start + length, 0)]
    before = min(max(-start, 0), length)
    return np.pad(inside, (before, length - before - len(inside)))


class Segment(NamedTuple):
    """What 10 s of the recording tell: delay in samples at their centre, drift, and how sure that is, 0 to 1."""

    centre: float
    delay: float
    drift: float
    sure: float


def _segment(segment: np.ndarray, speech: np.ndarray, reference: np.ndarray, start: int) -> Segment:
    furthest = int(RATE * MAX_DELAY_S + MAX_DRIFT * start) + REACH
    around = _piece(reference, start - furthest, len(segment) + 2 * furthest).astype(np.float32)
    x = segment.astype(np.float32)
    x_env, around_env = _envelope(x), _envelope(around)
    lags = _candidates(x_env, around_env)
    best = _phat(x, around, lags[0])
    if best.sure < 1:
        fits = [best, *(_phat(x, around, lag) for lag in lags[1:])]
        frames = np.flatnonzero(speech.repeat(FRAME // ENV_HOP)[: x_env.shape[1]])
        if len(frames) * ENV_HOP >= ENV_LEAST_S * RATE:
            fits += [_by_envelope(x_env, around_env, frames, lag) for lag in lags]
        best = max(fits, key=lambda fit: fit.sure)  # of equals the first
    return Segment(start + len(segment) / 2, furthest - best.at, best.drift, best.sure)


class Fit(NamedTuple):
    """Where a segment begins in what is around it, in samples, its drift against that, and how sure that is."""

    at: float
    drift: float
    sure: float


def _envelope(samples: np.ndarray) -> np.ndarray:
    """Log power of bands [12, frames], zero mean and unit spread in each."""
    frequencies, _, spectrum = stft(samples, RATE, nperseg=512, noverlap=512 - ENV_HOP, boundary=None)
    power = np.abs(spectrum) ** 2
    edges = np.searchsorted(frequencies, ENV_BANDS)
    bands = np.stack([power[low:high].sum(0) for low, high in pairwise(edges)])
    level = np.log(bands + 0.01 * bands.mean(1, keepdims=True) + 1e-3)
    level -= level.mean(1, keepdims=True)
    return level / (level.std(1, keepdims=True) + 1e-3)


def _candidates(x_env: np.ndarray, around_env: np.ndarray) -> list[int]:
    """Offsets of a segment in what is around it, in samples, at which their envelopes agree best."""
    agreement = fftconvolve(around_env, x_env[:, ::-1], mode="valid", axes=1).sum(0)
    lags = []
    for _ in range(CANDIDATES):
        at = int(np.argmax(agreement))
        lags.append(at * ENV_HOP)
        agreement[max(at - 4, 0) : at + 5] = -np.inf
    return lags


def _by_envelope(x_env: np.ndarray, around_env: np.ndarray, frames: np.ndarray, lag: int) -> Fit:
    """Near `lag` (samples) by the envelopes alone: their correlation in these frames, mean of the bands."""

    def agreement(at: int) -> float:
        if not 0 <= at + frames[0] <= at + frames[-1] < around_env.shape[1]:
            return 0.0
        one, other = x_env[:, frames], around_env[:, at + frames]
        one, other = one - one.mean(1, keepdims=True), other - other.mean(1, keepdims=True)
        return float(((one * other).mean(1) / (one.std(1) * other.std(1) + 1e-6)).mean())

    first = lag // ENV_HOP - ENV_NEAR - 1
    found = np.array([agreement(first + step) for step in range(2 * ENV_NEAR + 3)])
    best = 1 + int(found[1:-1].argmax())
    before, here, after = found[best - 1 : best + 2]
    bend = before - 2 * here + after
    between = 0.5 * (before - after) / bend if here > max(before, after) else 0.0  # the top of a parabola
    return Fit((first + best + between) * ENV_HOP, 0.0, _between(here, ENV_NONE, ENV_SURE))


def _phat(x: np.ndarray, around: np.ndarray, lag: int) -> Fit:
    """Near `lag` (samples), for x's centre: the best of blocks stacked along a drift."""
    block = min(BLOCK, len(x))
    starts = np.arange(0, len(x) - block + 1, block)
    size = 1 << (block + 2 * REACH - 1).bit_length()
    xs = np.fft.rfft([x[s : s + block] for s in starts], size)
    ys = np.fft.rfft([_piece(around, s + lag - REACH, block + 2 * REACH) for s in starts], size)
    cross = np.conj(xs) * ys
    power = np.abs(cross)
    cross[:, : 100 * size // RATE] = 0
    cross /= (power + PHAT_FLOOR * power.mean() + 1e-9) ** PHAT
    lags = np.fft.irfft(cross, size)[:, : 2 * REACH + 1]
    centres = starts + block / 2 - len(x) / 2
    drifts = np.array(sorted(np.linspace(-MAX_DRIFT, MAX_DRIFT, 97), key=abs))  # of equals the least
    reach = int(np.ceil(MAX_DRIFT * len(x) / 2)) + 1
    padded = np.pad(lags, ((0, 0), (reach, reach)))
    stacks = np.zeros((len(drifts), 2 * REACH + 1), np.float32)
    for row, drift in zip(stacks, drifts, strict=True):
        for values, shift in zip(padded, np.rint(drift * centres).astype(int), strict=True):
            row += values[reach - shift : reach - shift + 2 * REACH + 1]
    drift, at = np.unravel_index(np.argmax(stacks), stacks.shape)
    peak = (stacks[drift, at] - stacks.mean()) / (stacks.std() + 1e-9)
    return Fit(lag + at - REACH, float(drifts[drift]), _between(peak, PEAK_NONE, PEAK_SURE))


def _between(value: float, none: float, sure: float) -> float:
    return float(np.clip((value - none) / (sure - none), 0, 1))


def _stretches(found: Sequence[Segment]) -> tuple[list[tuple[float, float]], float, float, float]:
    """Where each stretch of one delay begins and its delay at time 0, in samples; drift; confidence; what fits."""
    centres, delays, drifts, sure = np.array(found).T
    anchors = np.flatnonzero(sure >= min(LEAST_CONFIDENCE, sure.max()))
    at, delay, weight = centres[anchors], delays[anchors], sure[anchors] + 1e-9
    expected = (drifts[anchors][1:] + drifts[anchors][:-1]) / 2 * np.diff(at)
    moved = np.abs(np.diff(delay) - expected) > ON_LINE_S * RATE
    stretch = np.concatenate([[0], np.cumsum(moved)])

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(stretch, values * weight) / np.bincount(stretch, weight)

    off = at - mean(at)[stretch]
    if (spread := (weight * off**2).sum()) > 0:  # one slope through all stretches
        slope = (weight * off * (delay - mean(delay)[stretch])).sum() / spread
    else:
        slope = np.average(drifts[anchors], weights=weight)
    offsets = mean(delay - slope * at)
    turns = (at[:-1] + at[1:])[moved] / 2
    on = np.abs(offsets[np.searchsorted(turns, centres)] + slope * centres - delays) < ON_LINE_S * RATE
    on[anchors] = True
    drift = slope / (1 - slope)  # delays were read on the recording's clock: t - (t - delay) / (1 + drift)
    begins = [-np.inf, *turns]
    stretches = list(zip(begins, (offsets * (1 + drift)).tolist(), strict=True))
    return stretches, float(drift), float((sure * on).mean()), float(on.mean())
