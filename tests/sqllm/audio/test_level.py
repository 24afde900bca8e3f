import numpy as np
import pytest

from sqllm.audio import RATE
from sqllm.audio.evidence import Evidence
from sqllm.audio.level import checked, gains, raised
from sqllm.errors import UsageError


def talk(level_db, seed=0, seconds=6):
    """Bursts and pauses, float32."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, seconds * RATE) * np.repeat(rng.random(seconds * 4) < 0.6, RATE // 4)
    return (0.1 * x * 10 ** ((level_db + 20) / 20)).astype(np.float32)


def level_of(samples):
    facts = Evidence()
    facts.update(samples)
    return facts.result()["level_db"]


def test_each_channel_comes_to_the_level():
    stereo = np.stack([talk(-45, 1), talk(-18, 2)], 1)
    found = gains(np.array_split(stereo, 7), -26)
    assert [level_of(channel * gain) for channel, gain in zip(stereo.T, found, strict=True)] == pytest.approx(
        [-26, -26], abs=0.1
    )


def test_peaks_and_silence_bound_it():
    peaky = talk(-50)
    peaky[100] = 0.5
    assert gains([peaky[:, None]], -26) == pytest.approx([2.0])
    assert gains([talk(-70)[:, None]], -20) == pytest.approx([10**1.5])
    assert gains([np.zeros((RATE, 1), np.float32)], -26) == pytest.approx([1.0])
    assert len(gains([], -26)) == 0


def test_a_reference_in_int16():
    quiet = (talk(-40) * 32768).astype(np.int16)
    assert level_of(raised(quiet, -26) / np.float32(32768)) == pytest.approx(-26, abs=0.1)


def test_a_level_that_nobody_means_is_refused():
    assert checked(None) is None and checked(-26) == -26
    with pytest.raises(UsageError, match="level 26: give the active speech level in dBov, from -60 to -10"):
        checked(26)
