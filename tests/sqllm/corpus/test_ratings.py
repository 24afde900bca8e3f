import csv

import numpy as np
import pytest

from sqllm import DIMENSIONS
from sqllm.audio.degrade import KINDS, Impairment
from sqllm.corpus import calibrate, ratings

# kind, fixed parameters, a parameter and its values from harmless to severe, the dimension that must hear it most
LADDERS = [
    ("noise", {}, "snr_db", [50, 35, 25, 15, 5, -3], "noi"),
    ("noise", {"colour": "white"}, "snr_db", [50, 35, 25, 15, 5, -3], "noi"),
    ("noise", {"snr_db": 10, "start": 0.0}, "end", [0.1, 0.4, 1.0], "noi"),
    ("babble", {}, "snr_db", [40, 20, 0], "noi"),
    ("talker", {}, "snr_db", [40, 20, 0], "noi"),
    ("reverb", {"wet_db": 0.0}, "rt60_s", [0.1, 0.5, 1.0, 1.5], "col"),
    ("reverb", {"rt60_s": 0.8}, "wet_db", [-20, -10, 0, 6], "col"),
    ("fading", {"period_s": 2.0}, "depth_db", [1, 10, 30], "loud"),
    ("clipping", {}, "threshold", [0.9, 0.5, 0.1, 0.02], "col"),
    ("suppress", {"floor_db": -25}, "strength", [0.5, 1, 2, 4], "col"),
    ("band", {"low_hz": 0.0}, "high_hz", [7500, 5000, 3400, 1500], "col"),
    ("band", {"high_hz": 8000.0}, "low_hz", [120, 300, 800], "col"),
    ("codec", {"name": "opus"}, "squeeze", [0.86, 0.92, 0.99], "mos"),
    ("codec", {"name": "amr"}, "kbps", [12.2, 7.95, 5.9, 4.75], "col"),
    ("mnru", {}, "q_db", [34, 25, 15, 5], "noi"),
    ("loss", {}, "rate", [0.01, 0.05, 0.2, 0.4], "mos"),
    ("chop", {}, "rate", [0.005, 0.05, 0.35], "dis"),
    ("jump", {"length_ms": 80}, "per_second", [0.1, 1, 4], "dis"),
    ("jump", {"per_second": 1}, "length_ms", [20, 80, 250], "dis"),
    ("echo", {"delay_ms": 150}, "gain_db", [-30, -20, -3], "mos"),
    ("echo", {"gain_db": -12}, "delay_ms", [30, 100, 200], "mos"),
    ("echo", {"gain_db": -20, "delay_ms": 150}, "feedback", [0.0, 0.3, 0.7], "mos"),
    ("vocoder", {"rounds": 16}, "bands", [120, 40, 14], "mos"),
    ("vocoder", {"bands": 40}, "rounds", [24, 4, 0], "mos"),
    ("world", {"frame_ms": 5.0, "breath": 0.0, "flutter": 0.0}, "bands", [64, 24, 8], "mos"),
    ("world", {"bands": 64, "breath": 0.0, "flutter": 0.0}, "frame_ms", [5, 12, 24], "mos"),
    ("world", {"bands": 64, "frame_ms": 5.0, "flutter": 0.0}, "breath", [0, 0.5, 1], "mos"),
    ("world", {"bands": 64, "frame_ms": 5.0, "breath": 0.0}, "flutter", [0, 0.2, 1], "mos"),
    ("level", {}, "gain_db", [-1, -10, -20, -32], "loud"),
    ("level", {}, "gain_db", [1, 6, 12], "noi"),
]


def rate(*chain, lost=None):
    return ratings.expected(ratings.severities(chain, lost))


def test_every_kind_has_a_ladder_and_every_severity_its_weights():
    assert {kind for kind, *_ in LADDERS} == set(KINDS)
    chains = [[Impairment(k, fixed | {p: v})] for k, fixed, p, values, _ in LADDERS for v in values]
    assert set().union(*map(ratings.severities, chains)) == set(ratings.WEIGHTS)
    assert all(len(w) == 5 and min(w) >= 0 and max(w) > 0 for w in ratings.WEIGHTS.values())


def test_a_clean_clip_gets_the_best_ratings():
    assert rate() == ratings.CLEAN and tuple(ratings.CLEAN) == DIMENSIONS


@pytest.mark.parametrize(("kind", "fixed", "name", "values", "hears"), LADDERS)
def test_ratings_fall_with_severity(kind, fixed, name, values, hears):
    rows = [rate(Impairment(kind, fixed | {name: v})) for v in values]
    table = np.array([[row[d] for d in DIMENSIONS] for row in [ratings.CLEAN, *rows]])
    assert (np.diff(table, axis=0) <= 0).all() and (table >= 1).all()
    assert (np.diff(table[:, 0]) < 0).all()  # mos strictly
    assert DIMENSIONS[np.argmax(table[0] - table[-1])] == hears


def test_what_a_coder_leaves_out_is_rated_too():
    assert ratings.severities([Impairment("codec", {"name": "aac"})]).keys() == {"treble", "coding"}
    assert ratings.severities([Impairment("codec", {"name": "celp"})]).keys() == {"narrow", "coding"}
    assert ratings.severities([Impairment("codec", {"name": "nelly"})]).keys() == {"coding"}


def test_impairments_add_up_and_gaps_are_measured():
    noise, loss = Impairment("noise", {"snr_db": 15}), Impairment("loss", {"rate": 0.1})
    both = rate(noise, loss)
    assert all(both[d] < min(rate(noise)[d], rate(loss)[d]) for d in DIMENSIONS)
    assert rate(loss, lost={"loss": 0.0}) == ratings.CLEAN  # every lost frame fell into a pause
    assert rate(loss, lost={"loss": 0.2})["mos"] < rate(loss)["mos"] < rate(loss, lost={"loss": 0.05})["mos"]
    chop = Impairment("chop", {"rate": 0.1})
    assert rate(loss, chop, lost={"loss": 0.0, "chop": 0.2}) == rate(chop, lost={"chop": 0.2})
    quiet = Impairment("level", {"gain_db": -20})
    assert ratings.severities([noise, quiet])["noise"] < ratings.severities([noise])["noise"]


def test_the_spread_of_listeners_is_widest_in_the_middle():
    low, middle, high = ratings.spread(np.array([1.2, 3.0, 4.8]))
    assert 0.1 < low < middle < 1 and low == pytest.approx(high, rel=0.01)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Anchor: White Noise 12dB", {"white": ratings.noisiness(12)}),
        ("AMR-NB@6.1 PL 18% bursty", {"narrow": 1.0, "coding": 1.0, "loss": np.log1p(3.6)}),
        ("Level -20 dB", {"quiet": 2.0}),
        ("BP 200-4000Hz", {"treble": 1.0, "bass": 1.0}),
        ("Amp clipping 0.1", {"clipping": 1.0}),
        ("P50MNRU 15dB", {"mnru": 4.0}),
        ("Skype Bad", None),
    ],
)
def test_conditions_are_read(words, expected):
    found = calibrate.parse(words)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_calibration_finds_the_weights_behind_the_ratings(tmp_path, capsys):
    words = ["clean", *(f"White Noise {n}dB" for n in (5, 12, 20, 30)), *(f"PL {n}%" for n in (2, 5, 10, 20))]
    with open(tmp_path / "conditions.csv", "w", newline="") as f:
        table = csv.DictWriter(f, ["set", "con_description", *DIMENSIONS])
        table.writeheader()
        for text in words:
            table.writerow({"set": "FOR", "con_description": text} | ratings.expected(calibrate.parse(text)))
    calibrate.main(str(tmp_path / "conditions.csv"))
    printed = capsys.readouterr().out
    for name in ("white", "loss"):
        assert f'"{name}": ({", ".join(f"{w:.2f}" for w in ratings.WEIGHTS[name])})' in printed
