import time

import numpy as np
import pytest
from scipy.signal import butter, firwin, lfilter, sosfilt

from sqllm.audio import RATE
from sqllm.audio.evidence import ActiveLevel, Evidence, describe, measure

TIMES = np.arange(10 * RATE) / RATE
RNG = np.random.default_rng(0)


def gated(signal, share=0.5):
    """On for `share` of every two seconds."""
    return np.where(share > (TIMES / 2) % 1, signal, 0)


def at_level(signal, dbov):
    return signal / np.sqrt(np.mean(signal**2)) * 10 ** (dbov / 20)


def syllables(seed=0):
    """Noise of a speech-like spectrum under a syllable envelope, with pauses that fade in and out."""
    rng = np.random.default_rng(seed)
    noise = sosfilt(butter(1, (150, 900), "band", fs=RATE, output="sos"), rng.normal(0, 1, len(TIMES)))
    envelope = np.abs(np.sin(np.pi * 2.5 * TIMES)) * (1 + np.sin(2 * np.pi * 0.7 * TIMES)).clip(0, 1)
    return at_level(noise * envelope, -26)


@pytest.mark.parametrize("dbov", [-50, -26, -12])
@pytest.mark.parametrize("signal", ["sine", "noise"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_active_level_and_activity(dbov, signal, share):
    wave = np.sin(2 * np.pi * 440 * TIMES) if signal == "sine" else RNG.normal(0, 1, len(TIMES))
    facts = measure(gated(at_level(wave, dbov), share))
    assert facts["level_db"] == pytest.approx(dbov, abs=0.1 if share == 1 else 1.2)  # its hangover takes in pause
    assert facts["activity"] == pytest.approx(share if share == 1 else 0.63, abs=0.03)


def test_the_envelope_is_that_of_two_averages_one_after_the_other():
    size = np.abs(gated(syllables(2))).astype(np.float32)
    g = np.exp(-1 / (0.03 * RATE))
    once = lfilter([1 - g], [1, -g], size)
    twice = lfilter([1 - g], [1, -g], once)
    level = ActiveLevel()
    blocks = [level._envelope(size[at : at + 4800]) for at in range(0, len(size), 4800)]
    np.testing.assert_allclose(np.concatenate(blocks), twice[level.STEP - 1 :: level.STEP], rtol=1e-5, atol=1e-9)


def test_level_of_long_bursts_is_within_half_a_db():
    burst = np.where(TIMES < 6, at_level(np.sin(2 * np.pi * 440 * TIMES), -26), 0)
    assert measure(burst)["level_db"] == pytest.approx(-26, abs=0.5)


@pytest.mark.parametrize("snr_db", [0, 10, 20, 40])
def test_snr(snr_db):
    wave = gated(at_level(RNG.normal(0, 1, len(TIMES)), -26)) + at_level(RNG.normal(0, 1, len(TIMES)), -26 - snr_db)
    assert measure(wave)["snr_db"] == pytest.approx(snr_db, abs=2)


@pytest.mark.parametrize(("low", "high"), [(None, 3400), (None, 7000), (300, 3400), (None, None)])
def test_band(low, high):
    wave = RNG.normal(0, 0.1, len(TIMES))
    if high:
        edges = [low, high] if low else high
        wave = lfilter(firwin(1001, edges, window=("kaiser", 8), pass_zero=not low, fs=RATE), 1, wave)
    facts = measure(wave)
    assert facts["band_high_hz"] == pytest.approx(high or 8000, abs=300)
    assert facts["band_low_hz"] == pytest.approx(low or 0, abs=100)


@pytest.mark.parametrize("ceiling_dbov", [0, -12])
@pytest.mark.parametrize("drive_db", [6, 12])
def test_clipped_share(ceiling_dbov, drive_db):
    wave = syllables()
    wave = wave / np.quantile(np.abs(wave), 0.9999) * 10 ** (drive_db / 20)
    ceiling = 10 ** (ceiling_dbov / 20)
    known = 100 * np.mean(np.abs(wave) > 1)
    assert measure(np.clip(wave, -1, 1) * ceiling)["clipped_pct"] == pytest.approx(known, rel=0.25)


def test_nothing_is_clipped_in_what_is_not():
    for wave in (syllables(), RNG.normal(0, 0.1, len(TIMES))):
        assert measure(wave)["clipped_pct"] == 0


def test_dropouts_are_found_where_they_are_and_nowhere_else():
    wave = at_level(RNG.normal(0, 1, len(TIMES)), -26)
    spans = [(1.0, 1.012), (2.503, 2.523), (4.0, 4.1), (7.2, 7.6)]
    for start, end in spans:
        wave[int(start * RATE) : int(end * RATE)] = 0
    facts = measure(wave, offset_s=30)
    found = [(gap["start_s"] - 30, gap["end_s"] - 30) for gap in facts["dropouts"]]
    assert np.allclose(found, spans, atol=0.004)
    assert facts["dropout_pct"] == pytest.approx(100 * 0.532 / 10, abs=0.15)


def test_natural_pauses_are_no_dropouts():
    assert measure(syllables())["dropouts"] == []
    assert measure(gated(syllables()))["dropouts"] == []


def test_blocks_do_not_matter():
    wave = syllables().astype(np.float32)
    whole, streamed = Evidence(), Evidence()
    whole.update(wave)
    for at in range(0, len(wave), 7777):
        streamed.update(wave[at : at + 7777])
    a, b = whole.result(), streamed.result()
    for key in ("level_db", "activity", "snr_db", "band_low_hz", "band_high_hz", "clipped_pct"):
        assert a[key] == pytest.approx(b[key], rel=1e-3)


def test_words():
    facts = measure(np.clip(np.rint(32768 * syllables()), -32768, 32767).astype(np.int16))
    facts["dropouts"] = [{"start_s": s, "end_s": s + 0.1} for s in (2.1, 5.0)]
    assert describe(facts).endswith("dropouts at 2.10-2.20 s, 5.00-5.10 s")
    facts["dropouts"] *= 3
    assert describe(facts).endswith(" and 2 more")
    facts["dropouts"] = []
    assert describe(facts).startswith("level -2")
    assert describe(facts).endswith("no dropouts")
    assert describe(measure(np.zeros(8000, np.int16))) == "no sound"
    assert describe(measure(np.zeros(0, np.int16))) == "no sound"


def test_cheap():
    wave = syllables().astype(np.float32)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        measure(wave)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.1  # some 10 ms; the bound allows for a busy machine
