import numpy as np
import pytest
import soundfile

from sqllm.errors import UsageError
from sqllm.evaluation.draws import draws, until


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
