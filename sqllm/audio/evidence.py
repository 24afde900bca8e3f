"""Measured facts about a channel or a window, for the row, for the prompt and for the person who asks why.

`Evidence` takes samples as they stream and keeps a power value every 2 ms (7 MB an hour) next to a few sums. Nothing
here needs a reference. Levels are dB relative to full scale (dBov: a full-scale square wave is 0, a sine is -3.01).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import lfilter

from sqllm.audio import RATE

FFT = 512
HOP = 32  # samples of one power value: 2 ms
HOP_S = HOP / RATE
FRAME_HOPS = 10  # power values in a 20 ms frame
QUIETEST_DB = -100.0

SNR_RANGE_DB = (-10.0, 70.0)
BAND_LOW_DB, BAND_HIGH_DB = -30.0, -50.0  # edges: where the long-term spectrum falls this far under its peak for good
DROPOUT_S = (0.01, 0.5)
DROPOUT_DEPTH_DB = 40.0  # a gap is this far under the active level,
DROPOUT_EDGE_DB = 22.0  # and at both ends less than this under it
CLIP_NEAR, CLIP_APART, CLIP_RATIO, CLIP_LEAST = 4, 9, 3.0, 2e-4  # see Clipping


class ActiveLevel:
    """Active speech level and activity factor by ITU-T P.56 (2011), method B.

    Envelope: two exponential averages of |x|, 30 ms each. Hangover 0.2 s, margin 15.9 dB, thresholds a factor of two
    apart. The envelope is read every millisecond, which its 30 ms make harmless, and computed for these moments only:
    the impulse response (k + 1) g^k of both averages falls into two sums, of g^k and of k g^k, that go on from
    millisecond to millisecond.
    """

    MARGIN_DB = 15.9
    THRESHOLDS = 2.0 ** np.arange(-15, 0)
    STEP = 16
    HANG = int(0.2 * RATE) // STEP

    def __init__(self):
        g = np.exp(-1 / (0.03 * RATE))
        age = np.arange(self.STEP)[::-1]
        self._taps = np.stack([g**age, age * g**age], axis=1)
        self._gain, self._decay = (1 - g) ** 2, g**self.STEP
        self._sums = np.zeros((2, 1))  # of g^k |x| and of k g^k |x|, until now
        self._recent = np.zeros(self.HANG)
        self._counts = np.zeros(len(self.THRESHOLDS))
        self._energy, self._n = 0.0, 0

    def update(self, samples: np.ndarray) -> None:
        """float32 [n], n a multiple of `STEP`."""
        recent = np.concatenate([self._recent, self._envelope(np.abs(samples))])
        held = maximum_filter1d(recent, self.HANG + 1, origin=self.HANG // 2)[self.HANG :]
        self._recent = recent[-self.HANG :]
        self._counts += (held >= self.THRESHOLDS[:, None]).sum(1) * self.STEP
        self._energy += float(np.dot(samples, samples))
        self._n += len(samples)

    def _envelope(self, size: np.ndarray) -> np.ndarray:
        """Of |x| [n], at the end of each step [n / STEP]."""
        plain, aged = (size.reshape(-1, self.STEP) @ self._taps).T
        recursion = [1], [1, -self._decay]
        first, _ = lfilter(*recursion, plain, zi=self._decay * self._sums[0])
        before = np.concatenate([self._sums[0], first[:-1]])
        second, _ = lfilter(*recursion, aged + self._decay * self.STEP * before, zi=self._decay * self._sums[1])
        self._sums = np.stack([first[-1:], second[-1:]])
        return self._gain * (first + second)

    def result(self) -> tuple[float | None, float]:
        """Active level in dB (None: no activity) and activity factor in 0..1."""
        used = self._counts > 0
        if not used.any() or not self._energy:
            return None, 0.0
        levels = 10 * np.log10(self._energy / self._counts[used])
        margins = levels - 20 * np.log10(self.THRESHOLDS[used])  # falls from threshold to threshold
        if margins[-1] > self.MARGIN_DB:
            level = levels[-1]
        elif margins[0] < self.MARGIN_DB:
            level = levels[0]
        else:
            level = np.interp(self.MARGIN_DB, margins[::-1], levels[::-1])
        activity = self._energy / self._n / 10 ** (level / 10)
        return float(level), float(min(activity, 1.0))


class Clipping:
    """Samples cut off at a ceiling, whatever the ceiling's level.

    Samples within 3 % of a neighbour are counted by level in 0.1 dB bins. Speech gets rarer towards its peak; a ceiling
    (also one that a codec or resampler has roughened) is a pile: more than `CLIP_RATIO` times as many samples as just
    below and just above it. The pile, less what lies just below it, is the clipped share. A pure tone has flat tops
    too and is taken for clipped.
    """

    def __init__(self):
        self._bins = np.zeros(800)  # -70..+10 dB
        self._peak, self._n = 1e-3, 0

    def update(self, samples: np.ndarray) -> None:
        size = np.abs(samples)
        self._n += len(samples)
        self._peak = max(self._peak, float(size.max(initial=0)))
        loud = np.flatnonzero(size > 0.25 * self._peak)
        edge = np.full(1, np.inf, np.float32)
        around = np.concatenate([edge, samples, edge])
        step = np.minimum(*(np.abs(around[loud + side] - samples[loud]) for side in (0, 2)))
        run = size[loud[step < 0.03 * size[loud]]]
        bins = (200 * np.log10(run) + 700).astype(int)
        self._bins += np.bincount(np.clip(bins, 0, 799), minlength=800)

    def result(self) -> float:
        """Clipped samples in percent."""
        top = int(200 * np.log10(self._peak) + 700)
        lowest = max(top - 120, 30)
        pile = uniform_filter1d(self._bins, 2 * CLIP_NEAR + 1, mode="constant") * (2 * CLIP_NEAR + 1)
        centre = lowest + int(np.argmax(pile[lowest:]))
        near, below = pile[centre], pile[centre - CLIP_APART]
        above = pile[min(centre + CLIP_APART, 799)]
        if near < max(CLIP_LEAST * self._n, 8, CLIP_RATIO * below, CLIP_RATIO * above):
            return 0.0
        return float(100 * (near - below) / self._n)


class Evidence:
    """Accumulates facts about one channel: `update` with float32 [n] at 16 kHz, any n; then `result` once."""

    def __init__(self):
        self._level, self._clipping = ActiveLevel(), Clipping()
        self._powers: list[np.ndarray] = []
        self._spectrum = np.zeros(FFT // 2 + 1)
        self._window = np.hanning(FFT).astype(np.float32)
        self._rest = np.zeros(0, np.float32)
        self._n = 0

    def update(self, samples: np.ndarray) -> None:
        self._n += len(samples)
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // FFT * FFT
        self._rest = samples[whole:]
        if whole:
            self._add(samples[:whole])

    def _add(self, samples: np.ndarray, spectrum: bool = True) -> None:
        self._level.update(samples)
        self._clipping.update(samples)
        hops = samples.reshape(-1, HOP)
        self._powers.append(np.einsum("ij,ij->i", hops, hops) / HOP)
        if spectrum:
            spectra = np.fft.rfft(samples.reshape(-1, FFT) * self._window)
            self._spectrum += (spectra.real**2 + spectra.imag**2).sum(0)

    def result(self, offset_s: float = 0.0) -> dict:
        """The facts: level_db, activity, snr_db, band_low_hz, band_high_hz, clipped_pct, dropouts, dropout_pct.

        `dropouts` is a list of {start_s, end_s}, shifted by `offset_s`. Where there is no activity, level_db, snr_db
        and the band are None.
        """
        if len(self._rest):
            # its cut end would splash over the spectrum
            self._add(np.pad(self._rest, (0, FFT - len(self._rest))), spectrum=not self._spectrum.any())
            self._rest = self._rest[:0]
        level, activity = self._level.result()
        activity = min(1.0, activity * self._padded() / max(self._n, 1))
        facts = dict(level_db=level, activity=activity, snr_db=None, band_low_hz=None, band_high_hz=None)
        spans = np.zeros((0, 2), int)
        if level is not None:
            powers = np.concatenate(self._powers)[: self._n // HOP]
            decibels = 10 * np.log10(np.maximum(powers, 10 ** (QUIETEST_DB / 10)))
            spans = _dropouts(decibels, level)
            facts["snr_db"] = _snr(powers, spans, level)
            facts["band_low_hz"], facts["band_high_hz"] = _band(self._spectrum)
        facts["clipped_pct"] = self._clipping.result() if self._n else 0.0
        facts["dropouts"] = [
            {"start_s": round(offset_s + start * HOP_S, 3), "end_s": round(offset_s + end * HOP_S, 3)}
            for start, end in spans.tolist()
        ]
        facts["dropout_pct"] = float(100 * HOP * np.diff(spans).sum() / max(self._n, 1))
        return facts

    def _padded(self) -> int:
        return sum(map(len, self._powers)) * HOP


def measure(samples: np.ndarray, offset_s: float = 0.0) -> dict:
    """The facts (see `Evidence.result`) of one window, int16 or float [n]; its dropouts are moved by `offset_s`."""
    if samples.dtype == np.int16:
        samples = samples / np.float32(32768)
    evidence = Evidence()
    evidence.update(samples.astype(np.float32, copy=False))
    return evidence.result(offset_s)


def describe(facts: dict) -> str:
    """One line of words for the language model's prompt."""
    if facts["level_db"] is None:
        return "no sound"
    words = [
        f"level {facts['level_db']:.0f} dB",
        f"SNR {facts['snr_db']:.0f} dB",
        f"band {round(facts['band_low_hz'], -1):.0f}-{round(facts['band_high_hz'], -2):.0f} Hz",
        f"clipping {facts['clipped_pct']:.1f} %",
    ]
    spans = [f"{gap['start_s']:.2f}-{gap['end_s']:.2f} s" for gap in facts["dropouts"]]
    more = f" and {len(spans) - 4} more" if len(spans) > 4 else ""
    words.append(f"dropouts at {', '.join(spans[:4])}{more}" if spans else "no dropouts")
    return ", ".join(words)


def _dropouts(decibels: np.ndarray, level: float) -> np.ndarray:
    """Gaps that begin and end abruptly inside speech: int [k, 2] in hops of 2 ms, end exclusive.

    An edge may take one hop, since a gap rarely begins on one. A natural pause or closure decays over more.
    """
    quiet = np.concatenate([[False], decibels < level - DROPOUT_DEPTH_DB, [False]])
    starts, ends = np.flatnonzero(np.diff(quiet.astype(np.int8))).reshape(-1, 2).T
    loud = level - DROPOUT_EDGE_DB
    n = len(decibels)
    inside = (starts >= 2) & (ends <= n - 2)
    starts, ends = starts[inside], ends[inside]
    before = np.maximum(decibels[starts - 1], decibels[starts - 2])
    after = np.maximum(decibels[ends], decibels[ends + 1])
    lengths = (ends - starts) * HOP_S
    keep = (before > loud) & (after > loud) & (lengths > DROPOUT_S[0] - 2.5 * HOP_S) & (lengths <= DROPOUT_S[1])
    return np.stack([starts[keep], ends[keep]], axis=1)


def _snr(powers: np.ndarray, dropouts: np.ndarray, level: float) -> float:
    """Power of the active 20 ms frames over the noise floor, their 10th percentile, dropouts apart.

    Active: above the floor and within P.56's margin. The active level itself would not do: noise less than 15.9 dB
    under the speech counts as activity there.
    """
    kept = np.ones(len(powers), bool)
    for start, end in dropouts:
        kept[start:end] = False
    powers = powers[kept]
    frames = powers[: len(powers) // FRAME_HOPS * FRAME_HOPS].reshape(-1, FRAME_HOPS).mean(1)
    if not len(frames):
        return SNR_RANGE_DB[1]
    floor = max(float(np.percentile(frames, 10)), 10 ** (QUIETEST_DB / 10))
    active = frames[frames > max(1.4 * floor, 10 ** ((level - ActiveLevel.MARGIN_DB) / 10))]
    over = active.mean() / floor - 1 if len(active) else 0.0
    return float(np.clip(10 * np.log10(max(over, 1e-3)), *SNR_RANGE_DB))


def _band(spectrum: np.ndarray) -> tuple[float, float]:
    """Lower and upper edge in Hz of the long-term power spectrum [FFT // 2 + 1]."""
    decibels = 10 * np.log10(np.maximum(uniform_filter1d(spectrum, 3), 1e-20))
    peak = decibels.max()
    low = np.flatnonzero(decibels > peak + BAND_LOW_DB)[0]
    high = np.flatnonzero(decibels > peak + BAND_HIGH_DB)[-1]
    return float(low * RATE / FFT), float(high * RATE / FFT)
