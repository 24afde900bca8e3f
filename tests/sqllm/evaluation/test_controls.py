import copy

import numpy as np
import pytest
import soundfile
import torch

from sqllm.corpus.panel import TEACHERS
from sqllm.corpus.shards import Shards
from sqllm.errors import UsageError
from sqllm.evaluation import controls, simulated
from sqllm.evaluation.head import Head, head, teachers, tokens, train, tuned
from sqllm.evaluation.listeners import listeners
from sqllm.model import store
from sqllm.predictor import Predictor
from sqllm.training.data import Sound, read


@pytest.fixture(scope="module")
def trained(base_model, tmp_path_factory):
    """A tiny model, untrained, as a directory that loads."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("model")
    return store.save(store.create(store.ModelConfig.load(base_model)), out, base_model)


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.load(str(trained), dtype="float32")


def test_controls_of_a_model(predictor, corpus):
    result = controls.controls(predictor, corpus, clips=4, spoken=1)
    assert result["clips"] == 4
    assert [row["asked"] for row in result["audio tokens of another clip"]] == [
        "single-ended", "single-ended, shuffled", "double-ended", "double-ended, shuffled",
    ]  # fmt: skip
    assert len(result["faults, with audio or facts of another clip"]) == 4
    assert result["reference of another clip"]["own reference used"]["n"] == 4
    assert all(row["shift of mos"] > 0 for row in result["wordings"])
    assert len(result["each question has its own answer"]) == 5
    assert result["tree against text"][1]["numbers from"] == "text"
    assert sum(row["n"] for row in result["words against numbers"] if "category" in row["contradicts"]) == 10
    with pytest.raises(UsageError, match="val"):
        controls.controls(predictor, corpus / "absent", clips=4)


def test_another_wording_lasts_as_long_as_it_is_asked_for(predictor, corpus):
    audio = simulated.hear(predictor, [clip.window for clip in simulated.read(corpus, 2)])
    before = simulated.rate(predictor, audio)[0]
    with controls.worded(predictor.model, "How good is it?"):
        assert not np.allclose(simulated.rate(predictor, audio)[0], before)
    with controls.worded(predictor.model):
        assert np.array_equal(simulated.rate(predictor, audio)[0], before)
    assert np.array_equal(simulated.rate(predictor, audio)[0], before)


def test_what_is_heard_clip_by_clip_is_what_the_predictor_scores(predictor, corpus):
    found = simulated.read(corpus, 3)
    audio = simulated.hear(predictor, [clip.window for clip in found])
    scores = predictor.score_windows([clip.window for clip in found])
    mean, std = simulated.rate(predictor, audio)
    assert np.allclose(mean, scores.mean, atol=1e-4) and np.allclose(std, scores.std, atol=1e-4)


def test_a_closing_sentence_has_its_place_on_the_scale():
    assert controls.verdict("Clear hiss. Words will be lost.") == (1.0, 1.5)
    assert controls.verdict("It hardly matters to a listener.") == (4.5, 5.0) and controls.verdict("Hiss.") is None
    assert controls.said_word("Very bad: 1.2.") == "very bad" and controls.said_word("3.1") is None


def test_shifts_of_listeners(predictor, corpus, tmp_path):
    (tmp_path / "c.csv").write_text("mos,mos_std\n" + "".join(f"{m},0.8\n" for m in (1.5, 2.2, 2.7, 3.2, 3.7, 4.5)))
    result = listeners(predictor, corpus, 4, tmp_path / "c.csv")
    shifts = result["shift of each dimension"]
    assert len(shifts) == 5 * len(predictor.profiles) and not shifts[0]["trained"]
    strict = next(row for row in shifts if (row["profile"], row["dim"]) == ("strict", "mos"))
    assert strict["asked"] == pytest.approx(-0.6, abs=0.01) and strict["right direction"] is not None
    assert all(row["people"] == pytest.approx(0.8) for row in result["spread of listeners"])


class OneRule:
    """Clips whose labels follow from one layer's features."""

    def __init__(self, n=200):
        g = torch.Generator().manual_seed(0)
        self.x = torch.randn(n, 3, 4, 16, generator=g)
        self.mean = (3 + self.x[:, 2, :, :5].mean(1) * 2).clamp(1, 5).numpy()

    def __len__(self):
        return len(self.x)

    def sound(self, at):
        return Sound(self.x[at].numpy())


def test_the_head_learns_which_layer_carries_the_quality():
    clips = OneRule()
    learnt = train(clips, epochs=60)
    got = learnt(clips.x).detach().numpy()
    r = [np.corrcoef(got[:, d], clips.mean[:, d])[0, 1] for d in range(5)]
    assert min(r) > 0.7, r
    assert learnt.layer_logits.argmax() == 2
    assert Head(3, 16)(clips.x[:2]).shape == (2, 5)


@pytest.fixture
def rated(tmp_path, speech):
    rows = []
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", speech(2.0, seed=i).numpy(), 16000)
        rows.append({"uri": str(tmp_path / f"{i}.wav"), "set": "s", "condition": None, "mos": 10.0 * i, "noi": None,
                     "col": None, "dis": None, "loud": None})  # fmt: skip
    return rows


def test_the_head_stands_beside_the_language_model(predictor, trained, corpus, rated):
    result = head(predictor, str(trained), corpus, 2, rated, ranks=True)
    assert result["clips"] == {"train": 44, "val": 4}
    [row] = result["rated"]
    assert row["n"] == 4 and row["dim"] == "mos" and -1 <= row["rho, head"] <= 1


def test_each_choice_of_teachers_teaches_a_head(predictor, trained, corpus, rated, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "sqllm.evaluation.head.panel_mos", lambda rows, names: asked.append(names) or [len(names)] * len(rows)
    )
    rows = teachers(predictor, str(trained), corpus, 1, rated, ranks=True)["teachers of mos"]
    assert asked[0] == TEACHERS and len(set(asked)) == 2 ** len(TEACHERS) - 1
    assert [row["teachers"] for row in rows] == [" + ".join(names) for names in asked[1:]]
    assert all(row["n"] == 4 and row["difference"] == row["rho"] - row["rho, all"] for row in rows)


def test_an_encoder_that_learns_too(predictor, trained, corpus, monkeypatch):
    rows = tuned(predictor, str(trained), corpus, 3)["simulated, by speaker"]
    assert {row["n"] for row in rows} == {4} and {"r, tuned encoder", "r, frozen encoder"} <= set(rows[0])
    monkeypatch.setattr(predictor.model.config, "encoder_training", "full")
    with pytest.raises(UsageError, match="frozen"):
        tuned(predictor, str(trained), corpus, 3)


def test_what_is_learnt_with_the_head_is_the_encoder(corpus, predictor):
    encoder = copy.deepcopy(predictor.model.encoder).float().train().requires_grad_(True)
    before = copy.deepcopy(encoder.state_dict())
    train(read([Shards.open(str(corpus))], None)["train"], 1, encoder)
    moved = [name for name, x in encoder.state_dict().items() if not torch.equal(x, before[name])]
    assert any("layers.0" in name for name in moved)


def test_more_audio_tokens(predictor, trained, corpus):
    rows = tokens(predictor, str(trained), corpus, 1, [4, 8])
    assert [row["audio tokens"] for row in rows] == [4, 8] and rows[0]["windows/s"] > 0
    assert predictor.model.encoder.tokens == 8
