import pytest

from sqllm import DIMENSIONS, plain
from sqllm.audio.evidence import measure
from sqllm.audio.io import load
from sqllm.errors import CODES
from sqllm.samples import __file__ as samples


def test_every_code_and_score_has_words():
    assert set(plain.CODES) == set(CODES) and set(plain.TITLES) == set(plain.MEANINGS) == set(DIMENSIONS)
    told = plain.named({"mos": 3.46, "noi": 4.5, "dis": 1.0})
    assert told == "discontinuity very bad 1.0, overall quality good 3.5, noisiness excellent 4.5."
    assert [plain.word(score) for score in (1.0, 2.0, 3.0, 4.0, 5.0)] == [name for _, name in plain.SCALE]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("faulty/welcome-en-noise-5dB", "Background sound is almost as loud as the voice"),
        ("faulty/queue-fr-muffled", "muffled: nothing above 1."),
        ("faulty/queue-en-clipping", "overdriven"),
        ("faulty/queue-en-quiet-30dB", "It is quiet: speech at -4"),
        ("faulty/welcome-en-loss", "The voice is cut out "),
        ("clean/welcome-en", "telephone sound"),
    ],
)
def test_the_samples_faults_are_said(name, said):
    evidence = measure(load(str(samples).replace("__init__.py", f"{name}.flac"), 60)[0])
    facts = " ".join(plain.facts(evidence))
    assert said in facts
    assert ("overdriven" in facts) == ("clipping" in name) and ("cut out" in facts) == ("loss" in name)


def test_silence_and_nothing():
    assert plain.facts({"level_db": None}) == ["There is no sound to measure."]
    fine = dict(level_db=-26.0, snr_db=40.0, band_high_hz=7000.0, clipped_pct=0.0, dropouts=[])
    assert "Nothing that can be measured" in plain.facts(fine)[0]
