"""The simulator: clean speech in, degraded speech out, with full ground truth.

A chain is a list of `Impairment`s: a kind from `KINDS`, its parameters, and after `apply` the spans in seconds where it
can be heard (the whole signal where it lists none). All signals are float32 mono at 16 kHz; every draw comes from the
`numpy.random.Generator` that is passed in, so a seed reproduces a clip. `Sources` holds the noises, rooms and other
talkers to mix in; without them coloured noise and synthetic rooms are used.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import soundfile as sf
import soxr
from scipy import signal

from sqllm.audio import RATE

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
    y = np.clip(x, -limit, limit)
    return y * np.sqrt(active_power(x) / active_power(y)), []


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
    y = x + 10 ** (wet_db / 20) * wet
    return y * np.sqrt(active_power(x) / active_power(y)), []


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


_SOUNDFILE_CODECS = {  # name: (container, subtype, rate)
    "opus": ("OGG", "OPUS", 16000),
    "opus-nb": ("OGG", "OPUS", 8000),
    "vorbis": ("OGG", "VORBIS", 16000),
    "mp3": ("MP3", "MPEG_LAYER_III", 16000),
    "mp3-nb": ("MP3", "MPEG_LAYER_III", 8000),
    "gsm": ("WAV", "GSM610", 8000),
    "alaw": ("WAV", "ALAW", 8000),
    "mulaw": ("WAV", "ULAW", 8000),
    "adpcm": ("WAV", "IMA_ADPCM", 8000),
}
_PYAV_CODECS = {  # name: (coder, decoder, rate, kbit/s or None where `kbps` says it)
    "amr": ("libopencore_amrnb", "amrnb", 8000, None),
    "g7231": ("g723_1", "g723_1", 8000, 6.3),
    "celp": ("real_144", "real_144", 8000, 8.0),
    "nelly": ("nellymoser", "nellymoser", 16000, 32.0),
    "aac": ("aac", "aac", 16000, 16.0),
}
NARROWBAND = {"opus-nb", "mp3-nb", "gsm", "alaw", "mulaw", "adpcm", "amr", "g7231", "celp"}


def codec(x, rng, src, name="opus", squeeze=0.5, kbps=12.2):
    """A real coder and decoder, soundfile's or PyAV's.

    `squeeze` in [0, 0.99], the most is the lowest rate, for those of soundfile; `kbps` is for amr.
    """
    if name in _PYAV_CODECS:
        *how, fixed = _PYAV_CODECS[name]
        return _fit(_by_pyav(x, *how, fixed or kbps), len(x)), []
    container, subtype, rate = _SOUNDFILE_CODECS[name]
    peak = max(1.0, float(np.abs(x).max()) * 1.01)
    y = soxr.resample(x / peak, RATE, rate) if rate != RATE else x / peak
    buffer = io.BytesIO()
    lossy = subtype in ("OPUS", "VORBIS", "MPEG_LAYER_III")
    options = {"compression_level": min(float(squeeze), 0.99)} if lossy else {}
    sf.write(buffer, y, rate, format=container, subtype=subtype, **options)
    buffer.seek(0)
    y, got = sf.read(buffer, dtype="float32")
    y = soxr.resample(y, got, RATE) * peak if got != RATE else y * peak
    return _fit(y.astype(np.float32), len(x)), []


def _by_pyav(x: np.ndarray, coder: str, decoder: str, rate: int, kbps: float) -> np.ndarray:
    import av  # the extra [av]: soundfile has no speech codec of mobile networks

    peak = max(1.0, float(np.abs(x).max()) * 1.01)
    kind = av.Codec(coder, "w").audio_formats[0]
    enc = av.CodecContext.create(coder, "w")
    enc.sample_rate, enc.layout, enc.format, enc.bit_rate = rate, "mono", kind.name, int(kbps * 1000)
    enc.open()
    size = enc.frame_size or 1024
    y = np.clip(soxr.resample(x / peak, RATE, rate) if rate != RATE else x / peak, -1, 1)
    y = np.pad(y, (0, -len(y) % size))
    y = y.astype(np.float32) if kind.name.startswith("flt") else (y * 32767).astype(np.int16)
    packets = []
    for i in range(0, len(y), size):
        frame = av.AudioFrame.from_ndarray(y[None, i : i + size], format=kind.name, layout="mono")
        frame.sample_rate, frame.pts = rate, i
        packets += enc.encode(frame)
    dec = av.CodecContext.create(decoder, "r")
    dec.sample_rate, dec.layout, dec.extradata = rate, "mono", enc.extradata
    out = [f.to_ndarray().ravel() for packet in packets + enc.encode(None) for f in dec.decode(packet)]
    out = np.concatenate(out)
    y = out / 32768 if out.dtype == np.int16 else out
    return (soxr.resample(y, rate, RATE) if rate != RATE else y).astype(np.float32) * peak


def vocoder(x, rng, src, bands=40, rounds=8):
    """What coders and enhancers that synthesise speech leave of it: the power of some mel `bands`, with phases that
    `rounds` of Griffin and Lim's algorithm make up."""
    spectrum = partial(signal.stft, fs=RATE, nperseg=512, noverlap=384)
    sound = partial(signal.istft, fs=RATE, nperseg=512, noverlap=384)
    spec = spectrum(x)[2]
    mel = np.linspace(0, np.log1p(8000 / 700), int(bands) + 2)
    edges = 700 * np.expm1(mel)
    hz = np.linspace(0, 8000, len(spec))[None]
    up = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(up, down))
    filters[np.arange(len(filters)), np.abs(hz - edges[1:-1, None]).argmin(1)] += 1e-6  # none is empty
    filters /= filters.sum(1, keepdims=True)
    power = filters.T @ (filters @ np.abs(spec) ** 2) / (filters.sum(0)[:, None] + 1e-9)
    size, phase = np.sqrt(power), np.exp(2j * np.pi * rng.random(spec.shape))
    for _ in range(int(rounds)):
        again = spectrum(sound(size * phase)[1])[2][:, : size.shape[1]]
        phase = np.exp(1j * np.angle(again))
    y = _fit(sound(size * phase)[1], len(x))
    return y * np.sqrt(active_power(x) / active_power(y)), []


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
