"""The model that ships, as it ships: it hears the faults of the samples, and nothing else moves its scores."""

from pathlib import Path

import numpy as np
import pytest

import sqllm.samples
from sqllm import DIMENSIONS, Predictor
from sqllm.audio.io import load
from sqllm.model.config import PRESET_ROOT

SAMPLES = Path(sqllm.samples.__file__).parent


@pytest.fixture(scope="module")
def predictor():
    return Predictor.load(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def rows(predictor):
    files = sorted(SAMPLES.rglob("*.flac"))
    return {(Path(row["uri"]).stem, row["channel"]): row for row in predictor.score([str(file) for file in files])}


def test_is_whole_and_small():
    files = [file for file in (PRESET_ROOT / "embedded").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 130e6
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".gguf")]
    assert {"README.md", "NOTICE", "trained.safetensors", "base.json"} <= {file.name for file in files}


@pytest.mark.parametrize(
    ("faulty", "clean", "dimension"),
    [
        ("welcome-en-noise-5dB", "welcome-en", "noi"),
        ("welcome-en-noise-20dB", "welcome-en", "noi"),
        ("welcome-en-loss", "welcome-en", "dis"),
        ("queue-fr-muffled", "queue-fr", "col"),
        ("queue-en-quiet-30dB", "queue-en", "loud"),
        ("voicemail-it-mnru", "voicemail-it", "mos"),
        ("queue-en-clipping", "queue-en", "mos"),
    ],
)
def test_hears_the_faults_of_the_samples(rows, faulty, clean, dimension):
    assert rows[faulty, 0][dimension] < rows[clean, 0][dimension] - 0.3


def test_finds_the_noisy_leg_and_the_worst_moment(rows):
    assert rows["call-en-it-noisy-leg", 1]["noi"] < rows["call-en-it-noisy-leg", 0]["noi"] - 0.3
    assert rows["announcements-en-loss-burst", 0]["worst_start_s"] in (0.0, 10.0)  # the burst is from 9 to 13 s


def test_it_says_scores(predictor, rows):
    assert all(1 <= row[d] <= 5 for row in rows.values() for d in DIMENSIONS)
    window = load(str(SAMPLES / "faulty/welcome-en-noise-5dB.flac"), 10)[0]
    assert predictor.score_windows([window]).mass.min() > 0.95


def test_batch_and_padding_do_not_move_a_score(predictor):
    window = load(str(SAMPLES / "clean/queue-en.flac"), 10)[0]  # 5.4 s: not a whole number of seconds
    other = load(str(SAMPLES / "clean/voicemail-it.flac"), 10)[0][: 6 * 16000 - 500]
    (alone,) = predictor.score_windows([window]).mean
    together, *_ = predictor.score_windows([window, other, other]).mean
    assert together == pytest.approx(alone, abs=1e-3)
    (longer,) = predictor.score_windows([np.pad(window, (0, 4000))]).mean
    assert longer == pytest.approx(alone, abs=0.3)


def test_listeners_differ(predictor):
    window = load(str(SAMPLES / "faulty/welcome-en-noise-5dB.flac"), 10)[0]
    words = [predictor.profiles[name].words for name in ("expert", "lenient")]
    panel, strict, lenient = predictor.score_windows([window], listeners=["", *words]).mean[0, :, 0]
    assert strict < panel < lenient


@pytest.mark.parametrize(
    ("sample", "question", "expected"),
    [
        ("faulty/welcome-en-noise-5dB", "is it noisy?", "Yes"),
        ("clean/queue-fr", "is it noisy?", "No"),
        ("faulty/queue-en-quiet-30dB", "is it too quiet?", "Yes"),
        ("faulty/welcome-en-loss", "does it drop out?", "Yes"),
        ("clean/welcome-en", "does it drop out?", "No"),
        ("clean/queue-fr", "is there an echo?", "No"),
        ("faulty/queue-en-clipping", "is it distorted?", "Yes"),
    ],
)
def test_answers_in_words(predictor, sample, question, expected):
    answer = "".join(predictor.ask(str(SAMPLES / f"{sample}.flac"), question))
    assert answer.startswith("mos ") and answer.split(". ", 1)[1].startswith(expected), answer


@pytest.mark.parametrize(
    ("sample", "named"),
    [
        ("faulty/welcome-en-noise-5dB", "background noise"),
        ("faulty/welcome-en-loss", "cut-outs"),
        ("faulty/queue-en-clipping", "clipping"),
        ("faulty/queue-en-quiet-30dB", "too low"),
        ("faulty/queue-fr-babble-10dB", "babble"),
        ("faulty/queue-fr-muffled", "muffling"),
        ("clean/queue-fr", "telephone band"),  # the prompts have 8 kHz
    ],
)
def test_says_what_is_wrong(predictor, sample, named):
    answer = "".join(predictor.ask(str(SAMPLES / f"{sample}.flac"), "what is wrong with it?"))
    assert named in answer, answer


def test_says_when(predictor):
    """The measured times are in the prompt; that they reach the answer is the language model's work."""
    answer = "".join(predictor.ask(str(SAMPLES / "faulty/welcome-en-loss.flac"), "when does it drop out?"))
    (row,) = predictor.score(str(SAMPLES / "faulty/welcome-en-loss.flac"))
    first = row["evidence"]["dropouts"][0]
    assert f"{first['start_s']:.2f}-{first['end_s']:.2f} s" in answer, answer
