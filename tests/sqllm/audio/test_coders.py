"""What coders and vocoders leave is as long, as loud and at the time of what went in, and worse where it should be."""

import numpy as np
import pytest
from scipy import signal
from support.coders import needed
from support.speech import RATE, X, db, degrade, lag, power_between, snr

from sqllm.audio import coders
from sqllm.audio.coders import NARROWBAND
from sqllm.audio.degrade import KINDS, Impairment, active_power
from sqllm.errors import UsageError


def distance(y):
    """Mean difference of the spectra in dB."""
    spectrum, made = (np.abs(signal.stft(s, RATE, nperseg=512)[2]) ** 2 + 1e-7 for s in (X, y))
    return np.abs(db(made / spectrum)).mean()


def test_missing_coders_are_named(monkeypatch):
    monkeypatch.setattr(coders, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match=r"need av, pyworld: pip install 'sqllm\[simulate\]'"):
        coders.check()


@pytest.mark.parametrize("name", ["opus", "opus-nb", "vorbis", "mp3", "mp3-nb", "gsm", "alaw", "mulaw", "adpcm"])
def test_codecs_keep_length_time_and_level(name):
    y, spans = degrade("codec", name=name)
    assert spans == [] and abs(lag(y)) <= 2 and np.array_equal(y, degrade("codec", name=name)[0])
    assert db(active_power(y) / active_power(X)) == pytest.approx(0, abs=1.5)
    assert 3 < snr(y) < 60
    cut = db(power_between(y, 4300, 8000) / power_between(X, 4300, 8000))
    assert (cut < -15) == (name in NARROWBAND)


def test_squeezing_a_coder_harder_hurts_more():
    for name in ("opus", "vorbis", "mp3"):
        errors = [snr(degrade("codec", name=name, squeeze=s)[0]) for s in (0.0, 0.99)]
        assert errors[0] > errors[1] + 2


def test_a_codec_keeps_what_is_past_full_scale():
    loud = X * np.float32(2 / np.abs(X).max())
    step = Impairment("codec", {"name": "mulaw"})
    y, _ = KINDS["codec"](loud, None, None, **step.params)
    assert np.abs(y).max() == pytest.approx(2, rel=0.1)


def test_amr():
    needed()
    best, worst = (degrade("codec", name="amr", kbps=kbps)[0] for kbps in (12.2, 4.75))
    spectrum, *coded = (db(np.abs(signal.stft(y, RATE, nperseg=512)[2][10:90]) ** 2 + 1e-9) for y in (X, best, worst))
    distances = [np.abs(c - spectrum)[spectrum > -70].mean() for c in coded]
    assert distances[0] < 6 and distances[0] < 0.9 * distances[1]
    assert db(active_power(best) / active_power(X)) == pytest.approx(0, abs=1.5)
    assert db(power_between(best, 4300, 8000) / power_between(X, 4300, 8000)) < -15


@pytest.mark.parametrize("name", ["g7231", "celp", "nelly", "aac"])
def test_other_coders_of_pyav(name):
    needed()
    y, spans = degrade("codec", name=name)
    assert spans == [] and abs(lag(y)) <= 2 and np.array_equal(y, degrade("codec", name=name)[0])
    assert db(active_power(y) / active_power(X)) == pytest.approx(0, abs=1.5)
    cut = db(power_between(y, 4300, 8000) / power_between(X, 4300, 8000))
    assert (cut > -15) == (name == "nelly")  # at its low rate AAC leaves the upper half out too


def test_a_vocoder_keeps_powers_and_makes_phases_up():
    fine, coarse, raw = (degrade("vocoder", bands=b, rounds=r)[0] for b, r in ((120, 16), (14, 16), (120, 0)))
    assert db(active_power(fine) / active_power(X)) == pytest.approx(0, abs=0.5)
    assert snr(fine) < 3  # the waveform is another,
    assert distance(fine) < 0.8 * distance(coarse) and distance(fine) < distance(raw)  # what is heard is near


def test_world_models_a_voice():
    needed()
    fine, coarse, slow, hoarse = (
        degrade("world", **dict(bands=60, frame_ms=5.0, breath=0.0, flutter=0.0) | worse)[0]
        for worse in ({}, {"bands": 8}, {"frame_ms": 24.0}, {"breath": 1.0})
    )
    assert snr(fine) < 3 and db(active_power(fine) / active_power(X)) == pytest.approx(0, abs=0.5)
    assert distance(fine) < 0.95 * min(map(distance, (coarse, slow, hoarse)))
