import numpy as np
import pytest

from sqllm.audio import RATE
from sqllm.audio.windows import FRAME, WINDOW, Windower, speech_frames


@pytest.mark.parametrize("total", [1, 8000, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 12345])
@pytest.mark.parametrize("block", [16000, 777777, 3000])
def test_windows_cover_everything_without_padding(total, block):
    samples = np.arange(total, dtype=np.int32)
    windower = Windower()
    got = [w for at in range(0, total, block) for w in windower.update(samples[at : at + block])]
    got += windower.finish()
    assert windower.total == total
    assert len(got) == -(-total // WINDOW)
    for start, window in got:
        assert (window == samples[start : start + len(window)]).all()
        assert len(window) == min(total, WINDOW)
    assert [start for start, _ in got[:-1]] == list(range(0, total - WINDOW, WINDOW))
    assert got[-1][0] + len(got[-1][1]) == total


def noise(seconds, dbov, seed=0):
    return np.random.default_rng(seed).normal(0, 32768 * 10 ** (dbov / 20), int(seconds * RATE)).astype(np.int16)


def test_silence_steady_noise_and_tone_are_not_speech():
    tone = (8000 * np.sin(np.arange(WINDOW) / 5)).astype(np.int16)
    for samples in (np.zeros(WINDOW, np.int16), noise(10, -75), noise(10, -40), noise(10, -20), tone):
        assert not speech_frames(samples).any()


def test_bursts_are_speech_even_in_noise():
    samples = noise(10, -40)
    samples[2 * RATE : 6 * RATE] += noise(4, -26, 1)
    speech = speech_frames(samples)
    assert speech.sum() * FRAME / RATE == pytest.approx(4, abs=0.1)
    assert speech[100:300].all()


def test_quiet_speech_counts():
    samples = np.zeros(WINDOW, np.int16)
    samples[: 5 * RATE] = noise(5, -60)
    assert speech_frames(samples).sum() == 250
