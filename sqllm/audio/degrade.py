"""The simulator: clean speech in, degraded speech out, with full ground truth.

A chain is a list of `Impairment`s: a kind from `KINDS`, its parameters, and after `apply` the spans in seconds where it
can be heard (the whole signal where it lists none). All signals are float32 mono at 16 kHz; every draw comes from the
`numpy.random.Generator` that is passed in, so a seed reproduces a clip. `Sources` holds the noises, rooms and other
talkers to mix in; without them coloured noise and synthetic rooms are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import signal

from sqllm.audio import RATE, coders

NOMINAL_DBOV = -26.0  # active speech level of an undegraded clip (ITU-T P.830)


@dataclass
class Impairment:
    kind: str
    params: dict[str, float | str] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Sources:
    """What can be mixed in: lists of float32 mono signals at 16 kHz, each may be empty."""

    noises: Sequence[np.ndarray] = ()
    rooms: Sequence[np.ndarray] = ()
    talkers: Sequence[np.ndarray] = ()


def active_mask(x: np.ndarray, frame: int = 160) -> np.ndarray:
    """Speech activity per 10 ms frame: within 25 dB of the loud frames, held over 100 ms."""
    n = len(x) // frame
    power = np.mean(x[: n * frame].reshape(n, frame) ** 2, axis=1) + 1e-12
    active = power > np.quantile(power, 0.95) * 10**-2.5
    return np.convolve(active, np.ones(11), "same") > 0


def active_power(x: np.ndarray) -> float:
    mask = active_mask(x)
    frames = x[: len(mask) * 160].reshape(-1, 160)[mask]
    return float(np.mean(frames**2)) if frames.size else 1e-12


def to_level(x: np.ndarray, dbov: float = NOMINAL_DBOV) -> np.ndarray:
    return (x * np.sqrt(10 ** (dbov / 10) / active_power(x))).astype(np.float32)


def _fit(y: np.ndarray, n: int) -> np.ndarray:
    return y[:n] if len(y) >= n else np.pad(y, (0, n - len(y)))


def _as_loud(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    y = _fit(y, len(x))
    return y * np.sqrt(active_power(x) / active_power(y))


def _cut(source: np.ndarray, n: int, rng) -> np.ndarray:
    """n samples from a random place of a source, repeated where it is shorter."""
    if len(source) < n:
        source = np.tile(source, -(-n // max(len(source), 1)))
    start = rng.integers(0, len(source) - n + 1)
    return source[start : start + n]


def coloured_noise(n: int, exponent: float, rng) -> np.ndarray:
    """Noise with a power spectrum of f**-exponent: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    f = np.maximum(np.arange(len(spectrum)), n / RATE * 20)
    return np.fft.irfft(spectrum * f ** (-exponent / 2), n).astype(np.float32)


def _add(x, y, snr_db):
    gain = np.sqrt(active_power(x) / (np.mean(y**2) + 1e-12) / 10 ** (snr_db / 10))
    return x + gain * y


def noise(x, rng, src, snr_db=15.0, colour="recorded", start=0.0, end=1.0):
    """Background noise; `colour` white, pink, brown or recorded; start and end as shares of the clip."""
    if colour == "recorded" and len(src.noises):
        y = _cut(src.noises[rng.integers(len(src.noises))], len(x), rng)
    else:
        y = coloured_noise(len(x), {"white": 0.0, "pink": 1.0}.get(colour, 2.0), rng)
    if (start, end) == (0.0, 1.0):
        return _add(x, y, snr_db), []
    gate = np.zeros(len(x), np.float32)
    a, b = int(start * len(x)), int(end * len(x))
    gate[a:b] = 1
    gate = np.convolve(gate, np.ones(800, np.float32) / 800, "same")
    loud = _add(x, y, snr_db) - x
    return x + loud * gate, [(a / RATE, b / RATE)]


def babble(x, rng, src, snr_db=15.0, voices=5):
    talkers = src.talkers if len(src.talkers) else [coloured_noise(RATE * 4, 1.0, rng)]
    y = sum(to_level(_cut(talkers[rng.integers(len(talkers))], len(x), rng)) for _ in range(int(voices)))
    return _add(x, y, snr_db), []


def talker(x, rng, src, snr_db=10.0):
    """One competing talker."""
    return babble(x, rng, src, snr_db, 1)


def band(x, rng, src, low_hz=0.0, high_hz=8000.0):
    y = x
    if high_hz < 7900:
        y = signal.sosfilt(signal.butter(8, high_hz, fs=RATE, output="sos"), y)
    if low_hz > 20:
        y = signal.sosfilt(signal.butter(4, low_hz, "high", fs=RATE, output="sos"), y)
    return y, []


def clipping(x, rng, src, threshold=0.1):
    """Amplitude clipping at a share of the peak, brought back to the level before."""
    limit = threshold * np.abs(x).max()
    return _as_loud(np.clip(x, -limit, limit), x), []


def _spans(frames: np.ndarray, frame: int) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frames.astype(int), [0]])))
    return [(a * frame / RATE, b * frame / RATE) for a, b in edges.reshape(-1, 2)]


def _bursts(n: int, rate: float, burst: float, rng) -> np.ndarray:
    """A two-state Markov loss pattern (Gilbert) with a mean burst length in frames."""
    leave = 1 / max(burst, 1.0)
    enter = min(leave * rate / max(1 - rate, 1e-3), 1.0)
    draws, lost, out = rng.random(n), False, np.zeros(n, bool)
    for i in range(n):
        lost = draws[i] >= leave if lost else draws[i] < enter
        out[i] = lost
    return out


def _ramp_gate(keep: np.ndarray, ramp: int) -> np.ndarray:
    if ramp == 1:
        return keep
    around = np.pad(keep, ramp, "edge")  # the ends of the clip are no gap
    return np.convolve(around, np.ones(ramp) / ramp, "same")[ramp:-ramp]


def loss(x, rng, src, rate=0.1, burst=1.0, frame_ms=20, conceal="fade"):
    """Frame loss; `conceal` zero, repeat, or fade (repeats the last good frame ever more quietly, as decoders do)."""
    frame = int(RATE * frame_ms / 1000)
    n = len(x) // frame
    lost, y = _bursts(n, rate, burst, rng), x.copy()
    run = 0
    for i in np.flatnonzero(lost):
        run = run + 1 if i and lost[i - 1] else 1
        here = slice(i * frame, (i + 1) * frame)
        if conceal == "zero" or i < run:
            y[here] = 0
            continue
        good = x[(i - run) * frame : (i - run + 1) * frame]
        gain = 1.0 if conceal == "repeat" else 0.5**run
        y[here] = gain * (good if run % 2 else good[::-1])
    return y, _spans(lost, frame)


def chop(x, rng, src, rate=0.05, gap_ms=80.0):
    """Time clipping: short mutes, more of them while somebody speaks."""
    y, spans, gap = x.copy(), [], int(RATE * gap_ms / 1000)
    speech = np.flatnonzero(active_mask(x)) * 160
    for _ in range(max(1, round(rate * len(x) / gap))):
        length = int(gap * rng.uniform(0.5, 1.5))
        at = int(rng.choice(speech)) if len(speech) else int(rng.integers(len(x)))
        spans.append((at, min(at + length, len(x))))
    keep = np.ones(len(x), np.float32)
    for a, b in spans:
        keep[a:b] = 0
    y *= _ramp_gate(keep, int(rng.choice([1, 16, 80])))
    return y, _spans(keep == 0, 1)


def jump(x, rng, src, per_second=0.5, length_ms=80.0, mode="skip"):
    """Jitter buffer faults: pieces skipped or repeated, the rest shifts in time."""
    n, out, spans, at, made = len(x), [], [], 0, 0
    for point in np.sort(rng.integers(0, n, max(1, round(per_second * n / RATE)))):
        length = int(RATE * length_ms / 1000 * rng.uniform(0.5, 1.5))
        if point < at or point + length > n:
            continue
        out.append(x[at:point])
        made += point - at
        if mode == "repeat":
            out.append(x[max(0, point - length) : point])
            made += min(length, point)
        spans.append((max(0.0, (made - (length if mode == "repeat" else 0)) / RATE), made / RATE + 0.02))
        at = point if mode == "repeat" else point + length
    y = np.concatenate([*out, x[at:]])
    return _fit(y, n), [s for s in spans if s[0] < n / RATE]


def echo(x, rng, src, delay_ms=150.0, gain_db=-12.0, feedback=0.0):
    """One echo, or where `feedback` (below 1) of each comes back, a fading row of them."""
    d, gain = int(RATE * delay_ms / 1000), 10 ** (gain_db / 20)
    y, come = x.copy(), gain * x
    while len(come) > d and gain > 1e-3:
        come = come[: len(come) - d]
        y[len(y) - len(come) :] += come
        come, gain = feedback * come, feedback * gain
    return y, []


def mnru(x, rng, src, q_db=20.0):
    """Modulated noise (ITU-T P.810)."""
    return x * (1 + 10 ** (-q_db / 20) * rng.standard_normal(len(x))), []


def reverb(x, rng, src, rt60_s=0.6, wet_db=0.0):
    """A recorded room, or an exponentially decaying one; `wet_db` is the direct-to-reverberant offset."""
    if len(src.rooms) and rng.random() < 0.4:
        tail = src.rooms[rng.integers(len(src.rooms))]
        tail = tail[np.abs(tail).argmax() :][: 2 * RATE]
        tail = tail * np.exp(-6.9 * np.arange(len(tail)) / RATE / rt60_s)
    else:
        t = np.arange(int(RATE * min(rt60_s * 1.2, 2.0))) / RATE
        tail = rng.standard_normal(len(t)) * np.exp(-6.9 * t / rt60_s)
    tail[:32] = 0
    wet = _fit(signal.fftconvolve(x, tail), len(x))
    wet *= np.sqrt(active_power(x) / (np.mean(wet**2) + 1e-12))
    return _as_loud(x + 10 ** (wet_db / 20) * wet, x), []


def level(x, rng, src, gain_db=0.0):
    return x * 10 ** (gain_db / 20), []


def fading(x, rng, src, depth_db=20.0, period_s=2.0):
    """Slow variation of the level, as from a moving talker or a wrong gain control."""
    t = np.arange(len(x)) / RATE
    swing = 0.5 - 0.5 * np.cos(2 * np.pi * (t / period_s + rng.random()))
    return x * 10 ** (-depth_db * swing / 20), []


def suppress(x, rng, src, strength=2.0, floor_db=-25.0):
    """A crude noise suppressor (spectral subtraction): musical noise and eaten speech."""
    _, _, spec = signal.stft(x, RATE, nperseg=512)
    power = np.abs(spec) ** 2
    floor = np.quantile(power, 0.3, axis=1, keepdims=True) * 3
    gain = np.sqrt(np.maximum(1 - strength * floor / (power + 1e-12), 10 ** (floor_db / 10)))
    return _fit(signal.istft(spec * gain, RATE, nperseg=512)[1], len(x)), []


def codec(x, rng, src, name="opus", squeeze=0.5, kbps=12.2):
    """A real coder and decoder, as `sqllm.audio.coders.code` has it."""
    return _fit(coders.code(x, name, squeeze, kbps), len(x)), []


def vocoder(x, rng, src, bands=40, rounds=8):
    """What coders and enhancers that synthesise speech leave of it: the power of some mel bands."""
    return _as_loud(coders.from_mel_bands(x, rng, bands, rounds), x), []


def world(x, rng, src, bands=40, frame_ms=10.0, breath=0.0, flutter=0.1):
    """The same of those that model the voice: its pitch, envelope and hoarseness."""
    return _as_loud(coders.from_world(x, rng, bands, frame_ms, breath, flutter), x), []


KINDS: dict[str, Callable] = {
    f.__name__: f
    for f in (
        noise,
        babble,
        talker,
        band,
        clipping,
        loss,
        chop,
        jump,
        echo,
        mnru,
        reverb,
        level,
        fading,
        suppress,
        codec,
        vocoder,
        world,
    )
}


def apply(
    x: np.ndarray, chain: list[Impairment], rng: np.random.Generator, sources: Sources | None = None
) -> np.ndarray:
    """Degraded float32 samples of the same length; fills each impairment's `spans`. Values past full scale are clipped,
    as a recorder would."""
    for step in chain:
        x, step.spans = KINDS[step.kind](x, rng, sources or Sources(), **step.params)
        x = np.asarray(x, np.float32)
    return np.clip(x, -1.0, 1.0)
