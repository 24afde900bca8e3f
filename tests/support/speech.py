"""A voice made on the spot, and what tests measure of it after it was degraded."""

import numpy as np
from scipy import signal

from sqllm.audio.degrade import RATE, Impairment, active_power, apply, to_level

SECONDS = 8


def db(power):
    return 10 * np.log10(power)


def voice(seed=0):
    """A gliding harmonic voice over a little noise, in syllables with pauses, at the nominal level."""
    rng = np.random.default_rng(seed)
    t = np.arange(SECONDS * RATE) / RATE
    phase = np.cumsum(2 * np.pi * (130 + 30 * np.sin(2 * np.pi * (0.6 * t + rng.random()))) / RATE)
    harmonics = sum(np.sin(k * phase + rng.random() * 6) / k for k in range(1, 50))
    envelope = np.clip(np.sin(2 * np.pi * (1.5 * t + rng.random())), 0, 1) * (t % 4 < 3)
    return to_level(envelope * (harmonics + 0.3 * rng.standard_normal(len(t))))


X = voice()


def degrade(kind, seed=0, sources=None, x=X, **params):
    """The degraded signal and its spans."""
    step = Impairment(kind, params)
    y = apply(x, [step], np.random.default_rng(seed), sources)
    assert y.dtype == np.float32 and len(y) == len(x)
    return y, step.spans


def inside(spans, n=SECONDS * RATE):
    mask = np.zeros(n, bool)
    for a, b in spans:
        mask[round(a * RATE) : round(b * RATE)] = True
    return mask


def power_between(x, low, high):
    f, p = signal.welch(x, RATE, nperseg=2048)
    return p[(f >= low) & (f < high)].sum()


def snr(y, x=X):
    return db(active_power(x) / np.mean((y - x) ** 2))


def lag(y, x=X):
    return np.abs(signal.correlate(y, x)).argmax() - (len(x) - 1)
