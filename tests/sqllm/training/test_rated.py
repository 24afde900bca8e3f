"""Training on rated recordings: what nobody rated has no loss, and the paper's model learns end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sqllm import Predictor
from sqllm.corpus.shards import Shards
from sqllm.errors import UsageError
from sqllm.model import answering, store
from sqllm.model.branches import inputs
from sqllm.model.config import PRESETS, LoRA
from sqllm.training import corpora, joint, scores, train, words
from sqllm.training.data import Clips, panel_spread, read
from sqllm.training.settings import Settings


@pytest.fixture(scope="module")
def clips(nisqa, tmp_path_factory):
    """The splits with waveforms."""
    [place], todo = corpora.find([str(nisqa)], str(tmp_path_factory.mktemp("rated")))
    for task in todo:
        corpora.make(*task)
    assert corpora.find([place], "elsewhere") == ([place], [])
    return read([Shards.open(place)], None)


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    return store.create(config("ast", "llama3", encoder_training="query", checklist=False, lora=LoRA(dropout=0.0)))


def test_a_table_of_ratings_is_a_corpus_too(tmp_path, nisqa):
    recordings = [f"{nisqa}/NISQA_TRAIN_SIM/deg/{i}.wav,{1 + i % 4},s{i}" for i in range(12)]
    (tmp_path / "r.csv").write_text("\n".join(["file,mos,speaker", *recordings]) + "\n")
    [place], todo = corpora.find([str(tmp_path / "r.csv")], str(tmp_path), {"uri": "file"})
    for task in todo:
        corpora.make(*task)
    assert {name: len(c) > 0 for name, c in read([Shards.open(place)], None).items()} == {"train": True, "val": True}
    with pytest.raises(UsageError, match="--only choose among rated recordings"):
        corpora.find([place], str(tmp_path), only={"lang": "en"})


def test_a_corpus_that_cannot_be_read_is_said(tmp_path, capsys):
    (tmp_path / "r.csv").write_text("uri,mos,speaker\na.wav,3,a\nb.wav,4,b\n")
    [place], todo = corpora.find([str(tmp_path / "r.csv")], str(tmp_path))
    for task in todo:
        corpora.make(*task)
    told = [corpora.left_out([place])[0].split(": ")[1][:9] for _ in range(2)]  # also of shards that were there
    assert told == ["NOT_FOUND"] * 2 and capsys.readouterr().err.count("left out of training: ") == 2
    with pytest.raises(UsageError, match="no clip of the corpus could be read"):
        read([Shards.open(place)], None)


def test_recordings_are_as_likely_whatever_their_length(clips):
    train = clips["train"]
    drawn = np.concatenate([train.draw(12, np.random.default_rng(i), 0.0)[0] for i in range(200)])
    shares = np.bincount(drawn, minlength=len(train)) / len(drawn)
    long = [i for i, row in enumerate(train.rows) if row["uri"].endswith("deg/0.wav")]
    assert len(long) == 2 and shares[long].sum() == pytest.approx(1 / 12, abs=0.03)


def test_only_clips_with_a_reference_are_heard_double_ended(clips):
    train = clips["train"]
    for seed in range(20):
        at, double = train.draw(4, np.random.default_rng(seed), 1.0)
        assert double and train.paired[at].all()
    assert train.sound(at, reference=True).x.shape == train.sound(at).x.shape


def test_what_nobody_rated_has_no_loss(clips, model):
    train, draw = clips["train"], scores.Draw(clips["train"], 4, checklist=False)
    at = np.array([i for i in range(len(train)) if np.isnan(train.mean[i, 1])][:3])
    part = replace(draw.part(at, False, np.random.default_rng(3)), listeners=[""])
    part.target = part.target[:, :1]
    assert np.isfinite(part.target[:, :, 0]).all() and np.isnan(part.target[:, :, 1:]).all()
    features = part.audio.features(model)
    value = scores.loss(model, part, features, None).value
    log = model.score(features)
    alone = -(torch.from_numpy(part.target[:, :, 0]) * log[:, :, 0]).sum(-1).mean()
    assert value.item() == pytest.approx(alone.item(), rel=1e-4)


def test_gradients_in_4_bits_are_the_same_after_a_validation(clips, config):
    model = store.create(config("ast", "llama3", quantization="nf4", checklist=False, lora=LoRA(dropout=0.0)))
    model.train()
    part = scores.Draw(clips["train"], 2, checklist=False)(np.random.default_rng(0))
    audio = part.audio.features(model)

    def gradients():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            scores.loss(model, part, audio, None).value.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    scores.validate(model, clips["val"])
    after = gradients()
    assert before and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_validation_hears_clips_of_all_corpora(clips, model, monkeypatch):
    heard, sound = [], Clips.sound
    monkeypatch.setattr(Clips, "sound", lambda self, at, **options: heard.extend(at) or sound(self, at, **options))
    scores.validate(model, clips["val"], most=2)
    assert heard == [0, len(clips["val"]) - 1]


def test_the_spread_of_votes_leans_on_what_is_usual_as_they_are_few():
    mean = np.full((4, 5), 3.0)
    rows = [{"mos_std": 0.2, "votes": v} for v in (2, 50, None)] + [{"votes": 9}]
    few, many, unsaid, usual = panel_spread(rows, mean)[:, 0]
    assert unsaid == pytest.approx(0.2) and unsaid < many < few < usual == panel_spread(rows, mean)[0, 1]


def test_the_tokens_of_the_papers_tasks_are_those_that_are_generated(clips, model, monkeypatch):
    """Blind and informed, single- and double-ended: number by number what `answering` feeds, and no padding counts."""
    audio, reference = torch.randn(2, 1, model.encoder.depth, 8, model.encoder.width)
    monkeypatch.setattr(answering, "continue_greedily", lambda model, x, tokens: fed.append(x) or iter(()))
    draw, seen = words.Draw(clips["train"], 2, checklist=False, questions=1), set()
    for seed in range(40):
        double = seed % 2 == 1
        asked = draw.asked([seed % 4, 5], double, np.random.default_rng(seed))
        under = reference if double else None
        packed = [words.pack(model, about, double) for about in asked]
        pair = torch.cat([audio, audio]), torch.cat([under, under]) if double else None
        trained, _, _ = inputs(model, packed, *pair)
        for row, about, branches in zip(trained, asked, packed, strict=True):
            fed = []
            [dialogue] = about.dialogues
            list(answering.answer(model, audio, under, about.context, dialogue.question))
            assert torch.equal(fed[0][0], row[: branches.asked[0] + 1])
            assert [token for _, token in branches.answered] == model.prompt.answer(dialogue.answer)
            assert max(at for at, _ in branches.answered) < len(branches.ids)
            seen.add((dialogue.task, bool(about.context), double))
    assert len({task for task, _, _ in seen}) == 5 and {informed for _, informed, _ in seen} == {True, False}


def test_encoder_projector_and_all_lora_layers_learn_together(clips, model):
    drawn = joint.Draw(clips["train"], 2, checklist=False)(np.random.default_rng(0))
    found = joint.loss(model, *drawn)
    found.value.backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any("q_proj.weight" in n and n.startswith("encoder.") for n in moved)
    assert {"projector.linear.weight"} < moved and all(
        any(f"layers.{i}." in n and ".lora_B" in n for n in moved) for i in range(3)
    )
    assert found.clips == 2 and found.tokens > 0
    model.zero_grad()


@pytest.mark.timeout(120)
def test_the_papers_model_learns_and_scores(nisqa, bases, config, tmp_path, capsys):
    small = {"encoder": str(bases / "ast"), "language_model": str(bases / "llama3"), "audio_tokens": 8}
    replace(PRESETS["paper"], **small).save(tmp_path)
    settings = Settings.of("paper", steps=6, batch=2, lr=3e-3)
    assert (settings.warmup, settings.weight_decay, Settings.of("paper").batch, Settings.of("paper").lr) == (
        128,
        0.01,
        4,
        4e-5,
    )
    out = train(nisqa, tmp_path, tmp_path / "out", settings)
    [line] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert line["step"] == 6 and line["clips_per_s"] > 0 and {"r_mos", "mae_mos", "mae_noi", "mass"} <= set(line)
    state = store.load_file(out / "trained.safetensors")
    before = store.trained_state(store.create(store.ModelConfig.load(out)))
    queries = [n for n in before if n.startswith("encoder.") and n.endswith("q_proj.weight")]
    assert queries and all((state[n].float() - before[n]).abs().max() > 1e-4 for n in queries)
    [row] = Predictor.load(str(out)).score(nisqa / "NISQA_TEST_P501/deg/0.wav")
    assert row["status"] == "ok" and 1 <= row["mos"] <= 5
