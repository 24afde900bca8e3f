import numpy as np
import pytest
import soundfile as sf
import soxr
from scipy.signal import butter, istft, lfilter, sosfilt, stft

from sqllm.audio import RATE
from sqllm.audio.align import GIVE_UP, _segment, align, match


def speech(seconds, seed):
    """Syllables like speech: gliding pitch through random formants, hiss, pauses. int16."""
    rng, parts, total = np.random.default_rng(seed), [], 0
    while total < seconds * RATE:
        n = int(rng.uniform(0.1, 0.35) * RATE)
        kind = rng.random()
        if kind < 0.2:
            part = rng.normal(0, 2, n)
        else:
            pitch = np.cumsum(np.linspace(*rng.uniform(90, 250, 2), n)) / RATE
            source = np.diff(np.floor(pitch), prepend=0) if kind < 0.75 else rng.normal(0, 0.1, n)
            part = np.zeros(n)
            for low, high in ((250, 900), (900, 2400), (2400, 3500), (3500, 6000)):
                pole = np.exp(-np.pi * 100 / RATE + 2j * np.pi * rng.uniform(low, high) / RATE)
                part += lfilter([1], [1, -2 * pole.real, abs(pole) ** 2], source)
            part *= np.hanning(n) / (part.std() + 1e-9) * rng.uniform(300, 3000)
        parts.append(part)
        total += n
    return np.concatenate(parts)[: int(seconds * RATE)].astype(np.int16)


def whole(x):
    return np.clip(np.rint(x), -32768, 32767).astype(np.int16)


def move(x, delay_s, drift_ppm=0.0):
    stretched = soxr.resample(x.astype(float), RATE, RATE * (1 + drift_ppm * 1e-6)) if drift_ppm else x.astype(float)
    n = round(delay_s * RATE)
    return np.concatenate([np.zeros(max(n, 0)), stretched[max(-n, 0) :]])


def noisy(x, rng, snr_db):
    return x + rng.normal(0, x.std() / 10 ** (snr_db / 20), len(x))


def telephone(x, rng):
    return sosfilt(butter(4, (500, 2500), "band", fs=RATE, output="sos"), x)


def lossy(x, rng):
    lost = np.repeat(rng.random(len(x) // 320 + 1) < 0.2, 320)[: len(x)]
    return np.where(lost, 0, x)


BADLY = {
    "clean": lambda x, rng: x,
    "noise": lambda x, rng: noisy(x, rng, 0),
    "band": telephone,
    "loss": lossy,
    "all": lambda x, rng: telephone(noisy(lossy(x, rng), rng, 0), rng),
}


@pytest.mark.parametrize("how", BADLY)
@pytest.mark.parametrize(("delay_s", "drift_ppm"), [(0.0, 0), (-3.2, 0), (4.9, 300), (0.7, -500)])
def test_finds_delay_and_drift(how, delay_s, drift_ppm):
    reference = speech(12, seed=1)
    degraded = whole(BADLY[how](move(reference, delay_s, drift_ppm), np.random.default_rng(0)))
    found = align(degraded, reference)
    assert found.used, found
    middle = 5.0
    expected = delay_s + middle * drift_ppm * 1e-6
    assert found.delay_s + middle * found.drift_ppm * 1e-6 == pytest.approx(expected, abs=0.0015)  # filters delay too
    assert found.drift_ppm == pytest.approx(drift_ppm, abs=100)


@pytest.mark.parametrize("how", BADLY)
def test_other_speech_is_refused(how):
    degraded = whole(BADLY[how](speech(12, seed=2).astype(float), np.random.default_rng(0)))
    found = align(degraded, speech(12, seed=1))
    assert not found.used
    assert found.confidence < 0.3


def anew(x, rng):
    """As a vocoder makes it: the same power in time and frequency, other phases."""
    _, _, spectrum = stft(x, RATE, nperseg=512)
    phases = np.exp(2j * np.pi * rng.random(spectrum.shape))
    return istft(np.abs(spectrum) * phases, RATE, nperseg=512)[1][: len(x)]


@pytest.mark.parametrize("delay_s", [0.0, -3.2037, 4.9])
def test_speech_made_anew_has_the_delay_of_its_envelope(delay_s):
    reference = speech(25, seed=1)
    found = align(whole(anew(move(reference, delay_s), np.random.default_rng(0))), reference)
    assert found.used, found
    assert found.delay_s == pytest.approx(delay_s, abs=0.003)
    assert abs(found.drift_ppm) < 200


@pytest.mark.parametrize("seconds", [1.5, 12])
def test_other_speech_made_anew_is_refused(seconds):
    degraded = whole(anew(speech(seconds, seed=2).astype(float), np.random.default_rng(0)))
    assert align(degraded, speech(12, seed=1)).confidence < 0.3


def test_long_drift_and_the_reference_under_a_window():
    reference = speech(90, seed=3)
    degraded = whole(move(reference, 1.5, 400))
    found = align(degraded, reference)
    assert found.used
    assert found.drift_ppm == pytest.approx(400, abs=3)
    for start in (0, 20 * RATE, 80 * RATE):
        piece = found.reference(start, 10 * RATE).astype(float)
        window = degraded[start : start + 10 * RATE].astype(float)
        assert np.corrcoef(piece, window)[0, 1] > 0.9


def test_delays_that_change_on_the_way():
    reference = speech(80, seed=8)
    piece, moves = 20 * RATE, (0, 960, -1440, 2400)  # samples that a jitter buffer adds (or drops) before each piece
    parts = [reference[i * piece + max(-n, 0) : (i + 1) * piece] for i, n in enumerate(moves)]
    late = np.concatenate([np.pad(part, (max(n, 0), 0)) for part, n in zip(parts, moves, strict=True)])
    degraded = whole(noisy(move(late, 0.25, 200), np.random.default_rng(0), 10))
    found = align(degraded, reference)
    assert found.used
    assert found.delay_s == pytest.approx(0.25, abs=0.0015)
    assert found.drift_ppm == pytest.approx(200, abs=50)
    for start in (5, 28, 50, 68):  # windows within a piece
        window = degraded[start * RATE :][: 10 * RATE].astype(float)
        assert np.corrcoef(found.reference(start * RATE, len(window)).astype(float), window)[0, 1] > 0.8


def test_a_reference_that_fits_a_part_only_is_refused():
    reference = speech(60, seed=9)
    half = np.concatenate([reference[: 35 * RATE], speech(25, seed=10)])
    found = align(whole(noisy(half, np.random.default_rng(0), 20)), reference)
    assert not found.used and "fits 67 % of the recording only" in found.problem


def test_another_long_recording_is_given_up_early(monkeypatch):
    asked = []
    monkeypatch.setattr("sqllm.audio.align._segment", lambda *of, real=_segment: asked.append(of) or real(*of))
    assert align(speech(300, seed=2), speech(300, seed=1)).confidence < 0.3
    assert len(asked) == GIVE_UP


def test_reference_is_zero_where_it_has_ended():
    reference = speech(8, seed=4)
    found = align(whole(move(np.pad(reference, (0, 3 * RATE)), 0.0)), reference)
    piece = found.reference(6 * RATE, 5 * RATE)
    assert len(piece) == 5 * RATE
    assert piece[: 2 * RATE].any()
    assert not piece[2 * RATE + 10 :].any()


def test_little_cover_and_silence_are_refused():
    reference = speech(3, seed=5)
    assert not align(np.pad(reference, (0, 9 * RATE)), reference).used
    assert not align(np.zeros(5 * RATE, np.int16), reference).used
    assert not align(reference, np.zeros(5 * RATE, np.int16)).used


def test_match_of_files(tmp_path, monkeypatch):
    x = speech(6, seed=6)
    sf.write(tmp_path / "mono.wav", x, RATE)
    sf.write(tmp_path / "stereo.wav", np.stack([x, np.roll(x, 800)], 1), RATE)
    stereo, mono = str(tmp_path / "stereo.wav"), str(tmp_path / "mono.wav")
    matches, problem = match(stereo, mono)
    assert problem is None
    assert [round(m.delay_s, 3) for m in matches] == [0, 0.05]
    assert match(mono, stereo)[0] is None
    assert "NOT_FOUND" in match(mono, str(tmp_path / "none.wav"))[1]
    monkeypatch.setattr("sqllm.audio.align.LIMIT_S", 5.0)
    assert "longer than" in match(mono, mono)[1]
