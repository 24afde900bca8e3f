"""The whole way on a tiny model with random weights: what is tested is that ways agree, never the scores themselves."""

import numpy as np
import pytest
import soundfile
import torch

from sqllm import DIMENSIONS, Predictor
from sqllm.errors import AudioError, UsageError
from sqllm.model import store
from sqllm.model.answering import generate_scores
from sqllm.model.scoring import moments, soft_target
from sqllm.recording import ROW_FIELDS


@pytest.fixture(scope="module")
def model(config, tmp_path_factory):
    torch.manual_seed(1)
    return store.save(store.create(config(encoder_layers="all", score_layers=2)), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor.load(model, device="cpu", dtype="float32")


@pytest.fixture
def wav(tmp_path, speech):
    """wav(name, seconds...) writes a recording with a channel for each length's worth of speech."""

    def write(name, seconds, channels=1, rate=16000):
        samples = np.stack([speech(seconds, seed=c).numpy() for c in range(channels)], axis=1)
        soundfile.write(tmp_path / name, samples, rate)
        return str(tmp_path / name)

    return write


def test_rows(predictor, wav, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    rows = predictor.score([wav("long.wav", 23, channels=2), wav("a.wav", 3), str(tmp_path / "text.wav")])
    assert [(row["channel"], row["status"]) for row in rows] == [(0, "ok"), (1, "ok"), (0, "ok"), (None, "failed")]
    assert all(set(row) == set(ROW_FIELDS) for row in rows)
    assert [len(row["windows"]) for row in rows] == [3, 3, 1, 0]
    for row in rows[:3]:
        assert row["model"] == predictor.fingerprint and row["profile"] is None and row["explanation"] is None
        assert all(1 <= row[d] <= 5 and row[f"{d}_std"] > 0 for d in DIMENSIONS)
        assert row["worst_mos"] == min(window["mos"] for window in row["windows"])
    assert rows[3]["error_code"] == "DECODE" and rows[3]["mos"] is None


def test_windows_are_drawn_until_the_error_is_small(predictor, wav):
    files = [wav("long.wav", 203), wav("short.wav", 23)]
    whole = predictor.score(files)
    enough, never, most = (
        predictor.score(files, until_se=se, windows=n) for se, n in ((9, None), (1e-9, None), (9, 5))
    )
    assert [len(row["windows"]) for row in enough] == [8, 3] and enough[0]["mos_se"] > 0 == enough[1]["mos_se"]
    assert enough[1] | {"scored_at": None} == whole[1] | {"scored_at": None}
    assert never[0]["mos"] == pytest.approx(whole[0]["mos"], abs=1e-3) and never[0]["mos_se"] == 0
    assert [len(row["windows"]) for row in most] == [5, 3]
    (middle,) = predictor.score(files[0], until_se=0.7 * enough[0]["mos_se"])
    assert 8 < len(middle["windows"]) <= 21 and middle["mos_se"] <= 0.7 * enough[0]["mos_se"]


def test_a_batch_that_does_not_fit_is_halved(predictor, speech, monkeypatch):
    windows = [(speech(2, seed=i) * 20000).short().numpy() for i in range(8)]
    whole, score, sizes = predictor.score_windows(windows), predictor.model.score, []

    def small(audio, reference, listeners):
        sizes.append(len(audio))
        if len(audio) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(audio, reference, listeners)

    monkeypatch.setattr(predictor.model, "score", small)
    monkeypatch.setattr(predictor, "batch", 8)
    assert predictor.score_windows(windows).mean == pytest.approx(whole.mean, abs=1e-3)
    assert sizes == [8, 4, 2, 2, 2, 2]
    monkeypatch.setattr(predictor.model, "score", lambda *_: small(range(9), None, None))
    with pytest.raises(torch.OutOfMemoryError):
        predictor.score_windows(windows[:1])


def test_a_score_does_not_depend_on_the_batch(predictor, speech):
    windows = [(speech(s, seed=i) * 20000).short().numpy() for i, s in enumerate((10, 3.2, 10, 2.5, 9.9, 10, 10))]
    together, spread, _ = predictor.score_windows(windows)
    alone = [predictor.score_windows([window]) for window in windows]
    assert together[:, 0] == pytest.approx(np.stack([mean[0, 0] for mean, _, _ in alone]), abs=1e-3)
    assert spread[:, 0] == pytest.approx(np.stack([std[0, 0] for _, std, _ in alone]), abs=1e-3)
    assert np.ptp(together[:, 0, 0]) > 1e-3  # different windows, different scores


def test_listeners_share_a_pass_and_do_not_disturb_each_other(predictor, speech):
    window = (speech(4) * 20000).short().numpy()
    words = [predictor.profiles[name].words for name in ("expert", "audiologist")]
    together = predictor.score_windows([window], listeners=["", *words]).mean
    for i, listener in enumerate(["", *words]):
        assert predictor.score_windows([window], listeners=[listener]).mean[0, 0] == pytest.approx(
            together[0, i], abs=1e-3
        )
    assert np.abs(together[0, 0] - together[0, 1]).max() > 1e-4


def test_double_ended(predictor, wav):
    deg, ref = wav("deg.wav", 6), wav("ref.wav", 6)
    (single,), (double,) = predictor.score(deg), predictor.score(deg, ref)
    assert double["alignment"]["used"] and double["error_code"] is None
    assert abs(single["mos"] - double["mos"]) > 1e-5
    other = wav("other.wav", 6.5)
    samples, rate = soundfile.read(other)
    soundfile.write(other, np.random.default_rng(0).permutation(samples.reshape(-1, 500)).ravel(), rate)
    (refused,) = predictor.score(deg, other)
    assert (refused["status"], refused["error_code"], refused["alignment"]["used"]) == ("ok", "REFERENCE", False)
    assert refused["mos"] == pytest.approx(single["mos"], abs=1e-6)
    assert "".join(predictor.ask(deg, "is it noisy?", other)).startswith("(scored without the reference")


def test_words(predictor, wav):
    file = wav("a.wav", 12)
    (row,) = predictor.score(file, explain="always")
    asked = "".join(predictor.ask(file, "What is wrong with it?"))
    assert row["explanation"] == asked and asked.startswith(f"mos {row['worst_mos']:.1f}, noi ")
    assert predictor.score(file, explain="below=1.0")[0]["explanation"] is None
    assert predictor.score(file, explain="below=5")[0]["explanation"] == asked
    assert len(list(predictor.ask(file, "is it noisy?"))) > 1  # a stream


def test_a_moment_or_a_channel_is_asked_about(predictor, wav):
    file = wav("call.wav", 25, channels=2)
    rows = predictor.score(file)
    for row in rows:
        for window in row["windows"][:2]:  # the third begins before the second ends
            said = "".join(predictor.ask(file, "?", at_s=window["start_s"] + 2, channel=row["channel"]))
            assert said.startswith(f"mos {window['mos']:.1f}, noi {window['noi']:.1f}")
    worst = min(rows[1]["windows"], key=lambda window: window["mos"])
    assert "".join(predictor.ask(file, "?", channel=1)).startswith(f"mos {worst['mos']:.1f}, noi {worst['noi']:.1f}")
    with pytest.raises(AudioError, match="nobody speaks at 30 s"):
        list(predictor.ask(file, "?", at_s=30))


def test_two_recordings_are_compared(predictor, wav, monkeypatch, tmp_path):
    a, b = wav("a.wav", 3), wav("b.wav", 5)
    told = []
    monkeypatch.setattr(
        "sqllm.predictor.answer", lambda model, audio, laid, context, question: told.append(context) or []
    )
    scores = ["".join(predictor.ask(file, "which is better?")) for file in (a, b)]
    assert "".join(predictor.ask(a, "which is better?", other=b)) == "".join(scores)
    assert told[2] == f"First recording:\n{told[0]}\nSecond recording:\n{told[1]}"
    soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
    with pytest.raises(AudioError, match="SILENT"):
        list(predictor.ask(a, "which is better?", other=str(tmp_path / "silence.wav")))


def test_a_silent_leg_does_not_silence_the_other(predictor, wav):
    file = wav("call.wav", 3, channels=2)
    samples, rate = soundfile.read(file)
    samples[:, 0] = 0
    soundfile.write(file, samples, rate)
    assert [row["error_code"] for row in predictor.score(file)] == ["SILENT", None]
    assert "".join(predictor.ask(file, "is it noisy?")).startswith("mos ")


def test_what_cannot_be_asked_is_said(predictor, wav, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
    with pytest.raises(AudioError, match="SILENT"):
        list(predictor.ask(str(tmp_path / "silence.wav"), "is it noisy?"))
    with pytest.raises(UsageError, match="expert"):
        predictor.score(wav("a.wav", 1), profile="nobody")
    with pytest.raises(UsageError, match="2 files and 1 references"):
        predictor.score(["a", "b"], ["c"])
    with pytest.raises(UsageError, match="generate"):
        Predictor.load(mode="guess")


def test_generate_writes_what_the_tree_holds_most_probable(config):
    """The paper's way sees the same tokens: taught to say certain numbers through the tree, the model writes them."""
    torch.manual_seed(2)
    model = store.create(config(score_layers=2)).requires_grad_(True)
    features = torch.randn(3, model.encoder.depth, 8, model.encoder.width)
    numbers = torch.tensor([[1.0, 2.3, 3.4, 4.9, 5.0], [2.2, 2.2, 1.7, 3.0, 4.1], [4.8, 1.1, 2.6, 3.3, 1.9]])
    target = soft_target(numbers, torch.full_like(numbers, 0.05))
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        loss = -(target * model.score(features)[:, 0]).sum(-1).mean()
        loss.backward()
        adam.step()
        adam.zero_grad()
    mean, _, mass = moments(model.eval().score(features))
    assert mean[:, 0].detach() == pytest.approx(numbers, abs=0.15) and mass.min() > 0.5
    assert generate_scores(model, features)[:, 0] == pytest.approx(numbers, abs=1e-6)
