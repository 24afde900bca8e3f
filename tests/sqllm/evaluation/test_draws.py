import numpy as np
import pytest
import soundfile
from support import coders

from sqllm.corpus import simulate
from sqllm.errors import UsageError
from sqllm.evaluation.draws import draws, made, until


class StandIn:
    """mos is taken from the loudest sample of a window."""

    def score_chunks(self, chunks):
        return [{"mean": np.array([[1 + np.abs(w).max() / 8192] * 5 for w in chunk.windows])} for chunk in chunks]


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Forty windows, of which the later half is louder."""
    t = np.arange(400 * 8000) / 8000
    talk = np.random.default_rng(0).uniform(-1, 1, len(t)) * (t % 1 < 0.6) * np.where(t < 200, 0.2, 0.5)
    path = tmp_path_factory.mktemp("calls") / "call.wav"
    soundfile.write(path, talk, 8000)
    return str(path)


def test_fewer_windows_and_a_larger_error(call):
    found = draws(StandIn(), [call], [2, 4, 40], [1.0, 1e-6])
    assert (found["calls"]["channels"], found["calls"]["windows"]) == (1, 40)
    two, four, every, few, all_again = found["draws"]
    assert (two["windows scored"], four["windows scored"]) == (2 / 40, 4 / 40)
    assert every["mean error"] == all_again["mean error"] == 0 == all_again["mos_se"]
    assert few["windows scored"] == 8 / 40
    assert 0 < four["largest"] <= 4 * four["mos_se"] and four["mos_se"] < two["mos_se"]


def test_until_goes_on_while_the_error_is_large():
    mos, weights = np.random.default_rng(0).normal(3, 0.5, 200), np.ones(200)
    assert len(until(mos, weights, 9)) == 8
    assert 8 < len(until(mos, weights, 0.1)) < len(until(mos, weights, 0.065)) <= 64
    assert len(until(mos, weights, 1e-9)) == 64


def test_no_speech_is_said(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    with pytest.raises(UsageError, match="window with speech"):
        draws(StandIn(), [str(tmp_path / "silence.wav")], [4], [])


def test_calls_are_made(tmp_path, speech):
    coders.needed()
    talkers = [f"talker{i}" for i in range(40)]
    for name in [n for n in talkers if simulate.is_val(n)][:2] + [n for n in talkers if not simulate.is_val(n)][:1]:
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", speech(4.0).numpy(), 16000)
    (tmp_path / "calls").mkdir()
    first, second = made(tmp_path / "calls", str(tmp_path), None, None, count=2, minutes=0.5)
    assert soundfile.info(first).duration == pytest.approx(30, abs=0.01)
    assert not np.array_equal(soundfile.read(first)[0], soundfile.read(second)[0])
