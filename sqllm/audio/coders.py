"""Real coders for the simulator, and vocoders: float32 speech at 16 kHz in, what is left of it out.

Of soundfile (Opus, Vorbis, MP3, GSM, G.711, ADPCM), PyAV (AMR, G.723.1, CELP, Nellymoser, AAC) and WORLD (pyworld); the
last two come with the extra `simulate`. What comes out is at the time of what went in, up to 50 ms longer.
"""

from __future__ import annotations

import io
from functools import partial
from importlib.util import find_spec

import numpy as np
import soundfile as sf
import soxr
from scipy import signal

from sqllm.audio import RATE
from sqllm.errors import UsageError

_SOUNDFILE = {  # name: (container, subtype, rate)
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
_PYAV = {  # name: (coder, decoder, rate, ms by which it is late, kbit/s or None where `kbps` says it)
    "amr": ("libopencore_amrnb", "amrnb", 8000, 5, None),
    "g7231": ("g723_1", "g723_1", 8000, 7.5, 6.3),
    "celp": ("real_144", "real_144", 8000, 20, 8.0),
    "nelly": ("nellymoser", "nellymoser", 16000, 8, 32.0),
    "aac": ("aac", "aac", 16000, 64, 16.0),
}
NARROWBAND = {"opus-nb", "mp3-nb", "gsm", "alaw", "mulaw", "adpcm", "amr", "g7231", "celp"}
STRAYS_MS = 100  # the time in which a pitch that strays comes back
AMR_KBPS = (4.75, 5.15, 5.9, 6.7, 7.4, 7.95, 10.2, 12.2)


def check() -> None:
    """UsageError where a package of the extra `simulate` is missing."""
    if missing := [package for package in ("av", "pyworld") if find_spec(package) is None]:
        raise UsageError(f"the simulator's coders need {', '.join(missing)}: pip install 'sqllm[simulate]'")


def code(x: np.ndarray, name: str, squeeze: float, kbps: float) -> np.ndarray:
    """Through a real coder and its decoder. `squeeze` in [0, 0.99], the most is the lowest rate, is for those of
    soundfile; `kbps` for amr."""
    peak = max(1.0, float(np.abs(x).max()) * 1.01)
    x = x / peak
    if name in _PYAV:
        y, rate = _by_pyav(x, *_PYAV[name], kbps)
    else:
        y, rate = _by_soundfile(x, *_SOUNDFILE[name], squeeze)
    return peak * (soxr.resample(y, rate, RATE) if rate != RATE else y).astype(np.float32)


def _by_soundfile(x: np.ndarray, container: str, subtype: str, rate: int, squeeze: float) -> tuple[np.ndarray, int]:
    buffer = io.BytesIO()
    lossy = subtype in ("OPUS", "VORBIS", "MPEG_LAYER_III")
    options = {"compression_level": min(float(squeeze), 0.99)} if lossy else {}
    sf.write(buffer, _at(x, rate), rate, format=container, subtype=subtype, **options)
    buffer.seek(0)
    return sf.read(buffer, dtype="float32")


def _at(x: np.ndarray, rate: int) -> np.ndarray:
    return soxr.resample(x, RATE, rate) if rate != RATE else x


def _by_pyav(
    x: np.ndarray, coder: str, decoder: str, rate: int, late_ms: float, fixed: float | None, kbps: float
) -> tuple[np.ndarray, int]:
    import av

    kind = av.Codec(coder, "w").audio_formats[0]
    enc = av.CodecContext.create(coder, "w")
    enc.sample_rate, enc.layout, enc.format, enc.bit_rate = rate, "mono", kind.name, int((fixed or kbps) * 1000)
    enc.open()
    size = enc.frame_size or 1024
    y = _at(x, rate)
    y = np.clip(np.pad(y, (0, -len(y) % size)), -1, 1).reshape(-1, size)
    y = y.astype(np.float32) if kind.name.startswith("flt") else (y * 32767).astype(np.int16)
    packets = []
    for i, piece in enumerate(y):
        frame = av.AudioFrame.from_ndarray(piece[None], format=kind.name, layout="mono")
        frame.sample_rate, frame.pts = rate, i * size
        packets += enc.encode(frame)
    dec = av.CodecContext.create(decoder, "r")
    dec.sample_rate, dec.layout, dec.extradata = rate, "mono", enc.extradata
    out = [f.to_ndarray().ravel() for packet in packets + enc.encode(None) for f in dec.decode(packet)]
    out = np.concatenate(out)[int(rate * late_ms / 1000) :]
    return out / 32768 if out.dtype == np.int16 else out, rate


def from_mel_bands(x: np.ndarray, rng: np.random.Generator, bands: int, rounds: int) -> np.ndarray:
    """The power of some mel `bands`, with phases that `rounds` of Griffin and Lim's algorithm make up."""
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
    return sound(size * phase)[1]


def from_world(
    x: np.ndarray, rng: np.random.Generator, bands: int, frame_ms: float, breath: float, flutter: float
) -> np.ndarray:
    """Pitch, spectral envelope and aperiodicity, and a voice made of them by WORLD (Morise et al., 2016).

    `bands` values are kept of each envelope, one envelope every `frame_ms`. The voice is hoarse where `breath` is above
    0 (up to 1), buzzing below (down to -1), and its pitch strays by `flutter` semitones (standard deviation).
    """
    import pyworld

    x = x.astype(np.float64)
    f0, at = pyworld.dio(x, RATE, frame_period=frame_ms)
    f0 = pyworld.stonemask(x, f0, at, RATE)
    envelope, aperiodicity = pyworld.cheaptrick(x, f0, at, RATE), pyworld.d4c(x, f0, at, RATE)
    size = 2 * (envelope.shape[1] - 1)
    coded = pyworld.code_spectral_envelope(np.ascontiguousarray(envelope), RATE, int(bands))
    envelope = pyworld.decode_spectral_envelope(coded, RATE, size)
    kept = np.exp(-frame_ms / STRAYS_MS)
    slow = signal.lfilter([np.sqrt(1 - kept**2)], [1, -kept], rng.standard_normal(len(f0)))
    f0 = f0 * 2 ** (flutter * slow / 12)
    return pyworld.synthesize(f0, envelope, aperiodicity ** (4.0**-breath), RATE, frame_ms)
