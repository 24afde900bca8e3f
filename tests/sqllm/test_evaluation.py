import argparse
import csv

import numpy as np
import pytest
import soundfile

from sqllm import evaluation
from sqllm.corpus import simulate
from sqllm.corpus.questions import Dialogue
from sqllm.errors import UsageError


class LevelMeter:
    """A stand-in that hears nothing but the level."""

    def score(self, files, references=None):
        rows = []
        for file in files:
            level = 10 * np.log10(np.mean(soundfile.read(file)[0] ** 2) + 1e-12)
            rows.append({"mos": float(np.clip(5 + level / 15, 1, 5)) if level > -90 else None})
        return rows

    def score_windows(self, windows):
        levels = np.array([10 * np.log10(np.mean((w / 32768) ** 2) + 1e-12) for w in windows])
        mean = np.repeat(np.clip(6 + levels / 15, 1, 5)[:, None, None], 5, axis=2)
        return mean, mean


def test_agreement():
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 5, 200)
    score = truth + 0.5 * rng.standard_normal(200) + 0.3
    result = evaluation.agreement(score, truth, np.arange(200) // 4)
    assert result["n"] == 200 and result["r"] == pytest.approx(np.corrcoef(score, truth)[0, 1])
    assert result["r_95"][0] < result["r"] < result["r_95"][1]
    assert result["rmse"] == pytest.approx(np.sqrt(np.mean((score - truth) ** 2)))
    assert result["mae"] < result["rmse"] and result["rho"] > 0.9


def test_votes(tmp_path, speech):
    rows = []
    for i in range(24):
        gain = 10 ** (-(i // 2) / 10)
        soundfile.write(tmp_path / f"{i}.wav", gain * speech(1.0, seed=i).numpy(), 16000)
        rows.append({"set": "a", "deg": f"{i}.wav", "condition": f"c{i // 2}", "score": 5 - i // 2 / 4})
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    rows += [dict(rows[0], deg="silent.wav"), dict(rows[0], set="b", deg="absent.wav")]
    with open(tmp_path / "ratings.csv", "w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    args = argparse.Namespace(
        ratings=tmp_path / "ratings.csv", only=[["set", "a"]], file="deg", reference=None, score="score",
        condition="condition",
    )  # fmt: skip
    result = evaluation.votes(LevelMeter(), args)
    assert result["unscored"] == 1 and result["per_clip"]["n"] == 24 and result["per_condition"]["n"] == 12
    assert result["per_clip"]["r"] > 0.95 and abs(result["audio_shuffled_r"]) < 0.1
    args.only = [["set", "c"]]
    with pytest.raises(UsageError, match="--only"):
        evaluation.votes(LevelMeter(), args)


def test_severity_hears_only_speakers_that_training_does_not(tmp_path, speech):
    names = [f"talker{i}" for i in range(60)]
    unseen = [n for n in names if simulate.is_val(n)]
    for i, name in enumerate([*unseen, *[n for n in names if n not in unseen][:2]]):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", speech(2.0, seed=i).numpy(), 16000)
    args = argparse.Namespace(speech=str(tmp_path), noise=None, speakers=None)
    result = evaluation.severity(LevelMeter(), args)
    assert result["speakers"] == len(unseen) > 2
    assert result["faults"]["level"]["falls"] and not result["faults"]["noise"]["falls"]
    assert np.shape(result["faults"]["level"]["scores"]) == (5, 5)


def test_human_conditions_with_one_fault(tmp_path):
    (tmp_path / "c.csv").write_text(
        "con_description,mos,noi,col,dis,loud\n"
        "Anchor: White Noise 12dB,2.2,1.5,3.7,4.0,3.6\nAnchor: Level -20dB,3.2,4,4,4,2\n"
        "AMR-WB@8.85 PL 18% bursty,2,3,3,2,3\nWhatsApp Bad line,2,2,2,2,2\n"
    )
    assert [(kind, scores[0]) for kind, _, scores in evaluation.human(tmp_path / "c.csv")] == [
        ("level", 3.2),
        ("noise", 2.2),
    ]


def test_words_are_compared_with_what_was_done():
    def agrees(task, truth, said, faults=()):
        return evaluation._agrees(Dialogue(task, "?", truth), said, list(faults))

    assert agrees("yes_no", "Yes, clear hiss.", "Yes, strong babble.") and not agrees("yes_no", "No.", "Yes.")
    assert agrees("category", "Loudness is fair, 3.1.", "fair: 2.9 for loudness.")
    assert not agrees("category", "Loudness is fair, 3.1.", "The loudness is very bad: 1.2.")
    assert agrees("when", "Dropouts at 1.20-1.31 s.", "It drops out at 1.20-1.31 s.")
    assert not agrees("when", "It does not drop out.", "Dropouts at 1.20-1.31 s.")
    assert agrees("explain", "", "You hear severe packet loss and echo.", ["loss"])
    assert agrees("explain", "", "It has a level far too low.", ["quiet"])
    assert not agrees("explain", "", "It has clear muffling.", ["loss"]) and agrees("explain", "", "", []) is None
