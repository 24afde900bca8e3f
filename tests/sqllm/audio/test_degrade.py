"""Each impairment does to the signal what its name and its parameters say."""

import numpy as np
import pytest
from scipy import signal
from support.coders import needed
from support.speech import SECONDS, X, db, degrade, inside, power_between, snr, voice

from sqllm.audio.degrade import KINDS, RATE, Impairment, Sources, active_mask, active_power, apply, to_level


def test_a_clean_chain_changes_nothing():
    assert np.array_equal(apply(X, [], np.random.default_rng(0)), X)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_seed_reproduces_a_clip(kind):
    if kind == "world":
        needed()
    params = {"level": {"gain_db": -6.0}, "band": {"high_hz": 3000.0}}.get(kind, {})
    one, spans = degrade(kind, 3, **params)
    two, again = degrade(kind, 3, **params)
    assert np.array_equal(one, two) and spans == again
    assert not np.array_equal(one, X) and np.abs(one).max() <= 1
    assert all(0 <= a < b <= SECONDS + 0.05 for a, b in spans)
    if kind in {"noise", "babble", "loss", "chop", "jump", "mnru", "reverb", "fading", "world"}:
        assert not np.array_equal(one, degrade(kind, 4, **params)[0])


def test_the_active_level_leaves_pauses_out():
    assert db(active_power(X)) == pytest.approx(-26, abs=0.01)
    mask = active_mask(X)
    assert 0.3 < mask.mean() < 0.75 and not mask[330:370].any()  # 3.3 to 3.7 s is a pause
    padded = np.concatenate([np.zeros(2 * RATE, np.float32), X])
    assert db(active_power(padded)) == pytest.approx(-26, abs=0.3)


@pytest.mark.parametrize("colour", ["white", "pink", "brown", "recorded"])
@pytest.mark.parametrize("snr_db", [0, 15, 30])
def test_noise_reaches_its_snr(colour, snr_db):
    recorded = Sources(noises=[signal.lfilter([1], [1, -0.5], np.random.default_rng(9).standard_normal(3 * RATE))])
    y, spans = degrade("noise", sources=recorded, snr_db=snr_db, colour=colour)
    assert snr(y) == pytest.approx(snr_db, abs=1) and spans == []


def test_colours_of_noise_fall_as_they_should():
    for colour, slope in (("white", 0), ("pink", -3), ("brown", -6)):  # dB per octave
        added = degrade("noise", snr_db=10, colour=colour)[0] - X
        octaves = [db(power_between(added, f, 2 * f) / f) for f in (125, 250, 500, 1000, 2000)]
        assert np.polyfit(range(5), octaves, 1)[0] == pytest.approx(slope, abs=0.5)


def test_noise_for_a_while_stays_in_its_span():
    y, spans = degrade("noise", snr_db=10, colour="white", start=0.25, end=0.5)
    assert spans == [(2.0, 4.0)]
    changed = np.flatnonzero(y != X) / RATE
    assert changed.min() == pytest.approx(2, abs=0.03) and changed.max() == pytest.approx(4, abs=0.03)
    here = slice(int(2.1 * RATE), int(3.9 * RATE))
    assert db(active_power(X) / np.mean((y - X)[here] ** 2)) == pytest.approx(10, abs=1)


@pytest.mark.parametrize("kind", ["babble", "talker"])
def test_other_talkers_reach_their_snr(kind):
    talkers = [np.roll(voice(10 + i), i * 2 * RATE // 3) for i in range(6)]
    y, _ = degrade(kind, sources=Sources(talkers=talkers), snr_db=12)
    assert snr(y) == pytest.approx(12, abs=1)
    # one competing talker pauses, five together do much less
    added = (y - X)[: len(X) // 160 * 160].reshape(-1, 160)
    silent = np.mean(np.mean(added**2, 1) < 1e-3 * np.mean(added**2))
    assert silent > 0.3 if kind == "talker" else silent < 0.2


def test_band_edges():
    white = to_level(np.random.default_rng(0).standard_normal(len(X)))
    y, _ = degrade("band", x=white, low_hz=500.0, high_hz=2000.0)

    def gain(low, high):
        return db(power_between(y, low, high) / power_between(white, low, high))

    assert gain(700, 1700) == pytest.approx(0, abs=0.5)
    assert gain(490, 510) == pytest.approx(-3, abs=1) and gain(1980, 2020) == pytest.approx(-3, abs=1)
    assert gain(50, 200) < -25 and gain(4000, 8000) < -40


@pytest.mark.parametrize("threshold", [0.5, 0.1])
def test_clipping_cuts_at_its_share_of_the_peak_and_keeps_the_level(threshold):
    y, _ = degrade("clipping", threshold=threshold)
    clipped = np.abs(X) >= threshold * np.abs(X).max()
    assert np.ptp(np.abs(y[clipped])) < 1e-6  # flat tops, and nothing else as high
    assert np.abs(y[~clipped]).max() <= np.abs(y[clipped]).min()
    assert np.mean(np.abs(y) >= np.abs(y).max() - 1e-6) == pytest.approx(clipped.mean(), abs=1e-4)
    assert db(active_power(y)) == pytest.approx(-26, abs=0.2)


@pytest.mark.parametrize(("rate", "burst"), [(0.05, 1.0), (0.2, 1.0), (0.2, 4.0)])
def test_loss_takes_its_share_in_bursts_of_its_length(rate, burst):
    noise = 0.05 * np.random.default_rng(0).standard_normal(60 * RATE).astype(np.float32)
    y, spans = degrade("loss", x=noise, rate=rate, burst=burst, conceal="zero")
    assert np.array_equal(y == 0, inside(spans, len(y)))  # the spans are exactly what was lost
    assert np.array_equal(y[y != 0], noise[y != 0])
    assert np.mean(y == 0) == pytest.approx(rate, rel=0.25)
    lengths = np.array([b - a for a, b in spans]) / 0.02
    np.testing.assert_allclose(lengths, lengths.round(), atol=1e-6)
    assert lengths.mean() == pytest.approx(burst + (burst == 1) * rate, rel=0.3)


@pytest.mark.parametrize(("conceal", "gains"), [("repeat", (1, 1)), ("fade", (0.5, 0.25))])
def test_concealment_repeats_the_last_good_frame(conceal, gains):
    y, spans = degrade("loss", rate=0.3, burst=3.0, conceal=conceal, frame_ms=10)
    assert not (y != X)[~inside(spans)].any()
    seen = 0
    for a, b in spans:
        at, frames = round(a * RATE), round((b - a) * 100)
        if at and frames >= 2:
            good = X[at - 160 : at]
            np.testing.assert_allclose(y[at : at + 160], gains[0] * good, atol=1e-7)
            np.testing.assert_allclose(np.abs(y[at + 160 : at + 320]).max(), gains[1] * np.abs(good).max(), atol=1e-7)
            seen += 1
    assert seen > 5


def test_chopping_mutes_speech():
    y, spans = degrade("chop", rate=0.1, gap_ms=50.0)
    lost = inside(spans)
    assert 0.04 < lost.mean() < 0.13  # gaps may overlap
    changed = np.flatnonzero(y != X)
    near = np.convolve(lost, np.ones(161), "same") > 0.5
    assert near[changed].all()  # within a ramp of 5 ms
    assert np.mean(y[lost] ** 2) < 0.05 * np.mean(X[lost] ** 2)
    starts = [int(a * 100) for a, _ in spans]
    assert active_mask(X)[starts].mean() > 0.9


@pytest.mark.parametrize("seed", range(6))
def test_chopping_leaves_both_ends_of_a_clip_alone(seed):
    y, spans = degrade("chop", seed, x=np.full(len(X), 0.1, np.float32), rate=0.02, gap_ms=30.0)
    for end, here in (((0.0, 0.1), y[:100]), ((SECONDS - 0.1, SECONDS), y[-100:])):
        if all(b < end[0] or a > end[1] for a, b in spans):
            np.testing.assert_allclose(here, 0.1, atol=1e-6)


@pytest.mark.parametrize("mode", ["skip", "repeat"])
def test_jumps_shift_what_follows(mode):
    t = np.arange(len(X)) / RATE
    ramp = (0.1 * t).astype(np.float32)  # every value says where it comes from
    y, spans = degrade("jump", x=ramp, per_second=0.5, length_ms=80.0, mode=mode)
    steps = np.diff(y / 0.1)
    at = np.flatnonzero(np.abs(steps) > 0.005)
    at = at[y[at + 1] > 0] + 1  # the zeros that fill the end of a skipping clip are no jump
    assert 1 <= len(at) <= 4 and len(at) == len(spans)
    assert (np.sign(steps[at - 1]) == (1 if mode == "skip" else -1)).all()
    assert ((np.abs(steps[at - 1]) > 0.035) & (np.abs(steps[at - 1]) < 0.125)).all()
    for place, (a, b) in zip(at / RATE, spans, strict=True):
        assert a - 0.01 <= place <= b + 0.01


def test_echo_comes_after_its_delay_at_its_gain():
    white = to_level(np.random.default_rng(0).standard_normal(len(X)))
    y, _ = degrade("echo", x=white, delay_ms=120.0, gain_db=-10.0)
    corr = signal.correlate(y, y, "full")[len(y) - 1 :]
    delay = 500 + np.abs(corr[500:]).argmax()
    assert delay == pytest.approx(0.120 * RATE, abs=1)
    gain = 10 ** (-10 / 20)
    assert corr[delay] / corr[0] == pytest.approx(gain / (1 + gain**2), rel=0.05)
    short = X[: RATE // 20]
    assert np.array_equal(degrade("echo", x=short, delay_ms=60.0)[0], short)  # over before its echo
    click = np.zeros(RATE, np.float32)
    click[0] = 0.5
    row, _ = degrade("echo", x=click, delay_ms=100.0, gain_db=-6.0, feedback=0.5)
    at = np.arange(5) * RATE // 10
    np.testing.assert_allclose(row[at], 0.5 * np.array([1, *10 ** (-6 / 20) * 0.5 ** np.arange(4)]), rtol=1e-4)
    assert not np.delete(row, np.arange(10) * RATE // 10).any()


@pytest.mark.parametrize("q_db", [5, 20, 35])
def test_mnru_has_its_q_and_follows_the_speech(q_db):
    y, _ = degrade("mnru", q_db=q_db)
    assert db(np.mean(X**2) / np.mean((y - X) ** 2)) == pytest.approx(q_db, abs=1)
    assert not (y - X)[X == 0].any()


def test_reverb_rings_for_its_time_and_keeps_the_level():
    burst = np.zeros(len(X), np.float32)
    burst[RATE : 2 * RATE] = 0.05 * np.random.default_rng(0).standard_normal(RATE)
    for rt60 in (0.4, 0.8):
        y, _ = degrade("reverb", x=burst, rt60_s=rt60, wet_db=0.0)
        energy = np.mean(y[2 * RATE :][: RATE // 4].reshape(-1, 400) ** 2, 1)
        slope = np.polyfit(np.arange(len(energy)) * 400 / RATE, db(energy), 1)[0]
        assert -60 / slope == pytest.approx(rt60, rel=0.15)
        assert np.abs(y[:RATE]).max() < 1e-6
    assert db(active_power(degrade("reverb")[0])) == pytest.approx(-26, abs=0.2)
    room = np.zeros(RATE)
    room[[100, 2100]] = 1.0, 0.8  # its one reflection comes 125 ms after the direct sound
    rooms = (degrade("reverb", seed, Sources(rooms=[room]), x=burst, rt60_s=1.5)[0] for seed in range(20))
    assert (
        2 <= sum(np.abs(y[2 * RATE + 2001 :]).max() < 1e-6 for y in rooms) <= 18
    )  # recorded rooms and made ones take turns


def test_level_and_full_scale():
    y, _ = degrade("level", gain_db=-20.0)
    assert db(np.mean(y**2) / np.mean(X**2)) == pytest.approx(-20, abs=0.01)
    loud, _ = degrade("level", gain_db=30.0)
    assert np.abs(loud).max() == 1 and np.mean(np.abs(loud) == 1) > 0.01  # what a recorder would clip


def test_fading_swings_by_its_depth_in_its_period():
    steady = np.full(len(X), 0.1, np.float32)
    y, _ = degrade("fading", x=steady, depth_db=20.0, period_s=2.0)
    swing = 20 * np.log10(y / 0.1)
    assert swing.max() == pytest.approx(0, abs=0.01) and swing.min() == pytest.approx(-20, abs=0.01)
    np.testing.assert_allclose(swing[2 * RATE :], swing[: -2 * RATE], atol=1e-3)


def test_suppression_takes_noise_more_than_speech():
    noisy, _ = degrade("noise", snr_db=10, colour="white")
    y, _ = degrade("suppress", x=noisy, strength=2.0, floor_db=-25.0)
    pause = slice(int(3.3 * RATE), int(3.7 * RATE))
    assert db(np.mean(y[pause] ** 2) / np.mean(noisy[pause] ** 2)) < -8
    assert db(active_power(y) / active_power(noisy)) > -6


def test_steps_follow_one_another():
    chain = [Impairment("loss", {"rate": 0.2, "conceal": "zero"}), Impairment("level", {"gain_db": -6.0})]
    y = apply(X, chain, np.random.default_rng(0))
    lost = inside(chain[0].spans)
    assert not y[lost].any()
    np.testing.assert_allclose(y[~lost], X[~lost] * 10 ** (-6 / 20), rtol=1e-5)
