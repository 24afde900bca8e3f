"""Training on a miniature corpus and model: it learns, goes on where it stopped, and words leave the scores alone."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from sqllm.corpus.shards import Shards
from sqllm.errors import UsageError
from sqllm.model import answering, pack, store
from sqllm.model.branches import Branches, inputs, prefix_ids
from sqllm.training import features, references, scores, train, words
from sqllm.training.data import panel_mos, read
from sqllm.training.features import features_key, features_name, load_encoder, missing, prepare_shard
from sqllm.training.settings import Settings
from sqllm.training.words import loss


def prepared(corpus, base_model):
    config, shards = store.ModelConfig.load(base_model), Shards.open(str(corpus))
    key = features_key(config, base_model)
    for name in missing(shards, key):
        prepare_shard(load_encoder(config, base_model), shards, name, key)
    return read([shards], key)


def test_learns_goes_on_and_saves_a_whole_model(corpus, base_model, tmp_path, capsys):
    train(corpus, base_model, tmp_path / "a", Settings(30, 6, batch=4, lr=3e-3))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    scores = [line for line in lines if "mass" in line or line["step"] in (25, 30)]
    assert scores[-1]["loss"] < scores[0]["loss"] and 0 <= lines[1]["mass"] <= 1
    model = store.load(tmp_path / "a")
    before = {n: p.clone() for n, p in store.trained_state(store.create(model.config)).items()}
    after = store.load_file(tmp_path / "a" / "trained.safetensors")
    moved = {n for n in before if not torch.equal(before[n], after[n].float())}
    assert any(n.startswith("projector") for n in moved) and any("lora" in n and ".layers.2." in n for n in moved)


@pytest.mark.parametrize("encoder_training", ["frozen", "full"])
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(corpus, base_model, tmp_path, monkeypatch, encoder_training):
    replace(store.ModelConfig.load(base_model), encoder_training=encoder_training).save(tmp_path)
    base_model = tmp_path
    whole = train(corpus, base_model, tmp_path / "whole", Settings(12, 4, batch=4))
    from sqllm.training import loop

    real, left = loop.os.replace, [1]

    def die(*args):
        real(*args)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "REPORTS", 1)
    monkeypatch.setattr(loop.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, base_model, tmp_path / "cut", Settings(12, 4, batch=4, report_every=5))
    monkeypatch.undo()
    cut = train(corpus, base_model, tmp_path / "cut", Settings(12, 4, batch=4, report_every=5))
    a, b = (store.load_file(path / "trained.safetensors") for path in (whole, cut))
    assert any(name.startswith("encoder.") for name in a) == (encoder_training == "full")
    for name in a:
        assert torch.allclose(a[name].float(), b[name].float(), atol=1e-6), name
    if encoder_training == "full":  # what is gone on from keeps it
        replace(store.ModelConfig.load(whole), encoder_training="frozen").save(whole)
        with pytest.raises(UsageError, match="was trained"):
            train(corpus, whole, tmp_path / "lost", Settings(1, 1))


def test_a_trained_model_is_gone_on_from_unless_fresh(corpus, base_model, tmp_path):
    first = train(corpus, base_model, tmp_path / "a", Settings(2, 1, batch=4))
    before = store.load_file(first / "trained.safetensors")

    def moved(out, **options):
        after = store.load_file(
            train(corpus, first, out, Settings(1, 1, batch=4, lr=1e-6, **options)) / "trained.safetensors"
        )
        return max(float((after[n].float() - before[n].float()).abs().max()) for n in before)

    assert moved(tmp_path / "b") < 1e-3
    assert moved(tmp_path / "c", fresh=True) > 1e-3


def test_words_alone_leave_what_scores_as_it_is(corpus, base_model, tmp_path):
    with pytest.raises(UsageError, match="never trained to score"):
        train(corpus, base_model, tmp_path / "a", Settings(0, 1, batch=4))
    first = train(corpus, base_model, tmp_path / "a", Settings(1, 1, batch=4))
    then = train(corpus, first, tmp_path / "b", Settings(0, 2, batch=4, lr=1e-2))
    before, after = (store.load_file(folder / "trained.safetensors") for folder in (first, then))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(
        ".layers.1." in name or ".layers.2." in name for name in moved
    )  # above the first, which scores


def test_words_change_no_score(corpus, base_model, tmp_path):
    data = prepared(corpus, base_model)
    model = store.create(store.ModelConfig.load(base_model)).eval()
    features = data["train"].sound(np.arange(4)).features(model)
    before = model.score(features).detach()
    words.train(model, data, tmp_path, Settings(word_steps=3, lr=1e-2), made_with={})
    assert torch.equal(model.eval().score(features), before)


def test_packed_questions_cost_what_each_costs_alone(corpus, base_model):
    clips = prepared(corpus, base_model)["train"]
    torch.manual_seed(0)
    model = store.create(store.ModelConfig.load(base_model)).eval()
    prefix, _ = prefix_ids(model.prompt, "mos 3.0.", 8, False)
    pairs = [
        (model.prompt.question(q), model.prompt.answer(a)) for q, a in (("is it noisy?", "No."), ("why?", "Loss."))
    ]
    audio = clips.sound([0]).features(model)
    both = loss(model, [Branches.pack(prefix, pairs)], audio, None)
    alone = [loss(model, [Branches.pack(prefix, [pair])], audio, None) for pair in pairs]
    weights = [len(answer) - 1 + words.FIRST for _, answer in pairs]
    assert both.item() == pytest.approx(np.average([x.item() for x in alone], weights=weights), abs=1e-4)


def test_the_tokens_that_are_trained_are_those_that_are_generated(corpus, base_model, monkeypatch):
    """What `answering` feeds the model up to its first word is, number by number, what training fed it."""
    model = store.create(store.ModelConfig.load(base_model)).eval()
    audio, reference = torch.randn(2, 1, model.encoder.depth, 8, model.encoder.width)
    context, question, words_ = "mos 3.0, noi 2.1.", "is it noisy?", "Yes, it is."
    prefix, _ = prefix_ids(model.prompt, context, 8, True)
    packed = Branches.pack(prefix, [(model.prompt.question(question), model.prompt.answer(words_))])
    trained, _, positions = inputs(model, [packed], audio, reference)
    first = packed.answered[0][0]

    fed = []
    monkeypatch.setattr(answering, "continue_greedily", lambda model, x, tokens: fed.append(x) or iter(()))
    list(answering.answer(model, audio, reference, context, question))
    assert torch.equal(fed[0], trained[:, : first + 1])
    assert positions[0].tolist() == list(range(len(packed.ids)))  # one branch: plain causal order
    assert [token for _, token in packed.answered] == model.prompt.answer(words_)
    assert packed.answered[-1][1] == model.tokenizer.eos_token_id


def test_two_clips_are_asked_about_with_what_is_known_of_both(corpus, base_model):
    clips = prepared(corpus, base_model)["train"]
    draw = words.Draw(clips, 2, checklist=True, compared=1.0, paper=0.0)
    for about in draw.asked(range(len(clips)), False, np.random.default_rng(0)):
        one, two = about.context.split("Second recording:\n")
        for known in (one.removeprefix("First recording:\n"), two):
            assert "overall quality" in known and "Heard: " in known
        assert {d.task for d in about.dialogues} == {"compare"}
    draw = words.Draw(clips, 2, checklist=True, compared=0.0, paper=0.0)
    for about in draw.asked(range(len(clips)), False, np.random.default_rng(0)):
        assert "First" not in about.context and "compare" not in {d.task for d in about.dialogues}


def test_panel_mos_knows_level():
    rows = [{"mos": 3.0, "distillmos": d, "pesq": p, "severities": s} for d, p, s in
            ((4.0, 3.0, {}), (4.0, 2.9, {"quiet": 3.0}), (2.0, None, {}))]  # fmt: skip
    loud, quiet, unheard = panel_mos(rows)
    assert quiet < loud - 0.5 and unheard < loud
    synthetic = [row | {"chain": [{"kind": "vocoder", "params": {}}]} for row in rows]
    synthetic[1] |= {"pesq": 1.0}  # PESQ is not asked about speech that was made anew
    assert panel_mos(synthetic)[1] == panel_mos([synthetic[0], rows[1] | {"pesq": None}, synthetic[2]])[1]
    three = [row | {"visqol": v} for row, v in zip(rows, (4.0, 4.0, 1.5), strict=True)]
    assert panel_mos(three)[2] < panel_mos([*three[:2], three[2] | {"visqol": 4.0}])[2]
    assert (panel_mos([row | {"visqol": None} for row in rows]) == panel_mos(rows)).all()  # of an older corpus
    assert panel_mos(synthetic, ["pesq"]) == pytest.approx([3.0] * 3)  # nobody who can judge is asked
    assert panel_mos([{"mos": 3.0, "distillmos": None}]) == [3.0]
    with pytest.raises(UsageError, match="--no-panel"):
        panel_mos([*rows, {"mos": 3.0}])


def test_what_cannot_be_trained_is_said(base_model, corpus, tmp_path, config):
    with pytest.raises(UsageError, match="NISQA corpus"):
        train(tmp_path, base_model, tmp_path / "out", Settings())
    config(lora=None).save(tmp_path)
    with pytest.raises(UsageError, match="lora"):
        train(corpus, tmp_path, tmp_path / "out", Settings())


def test_a_speaker_in_both_splits_is_refused(corpus, base_model, tmp_path):
    table = pq.read_table(corpus / "clips-00000.parquet")
    same = pa.array(["anna"] * len(table))
    table = table.set_column(table.column_names.index("speaker"), "speaker", same)
    pq.write_table(table, tmp_path / "clips-00000.parquet")
    with pytest.raises(UsageError, match=r"speaker.*train and val.*anna"):
        prepared(tmp_path, base_model)


def test_features_are_made_once_and_know_what_they_were_made_with(corpus, base_model, monkeypatch):
    clips = prepared(corpus, base_model)["train"]
    config, key = store.ModelConfig.load(base_model), clips.key
    made = np.load(corpus / features_name("clips-00000.parquet", key))
    assert not missing(Shards.open(str(corpus)), key)
    _, shard, row = clips.where[-1]
    made_last = np.load(corpus / features_name(shard, key))
    assert np.array_equal(clips.sound([0, len(clips) - 1], reference=True).x[1], made_last[row, 1])
    assert made.shape == (24, 2, 3, 8, 64) and np.isfinite(made.astype(np.float32)).all()
    monkeypatch.setitem(features.AT_ONCE, "cpu", 5)  # as a GPU hears them
    prepare_shard(load_encoder(config, base_model), Shards.open(str(corpus)), "clips-00000.parquet", key)
    assert np.allclose(np.load(corpus / features_name("clips-00000.parquet", key)), made, atol=4e-3)
    assert features_key(replace(config, audio_tokens=4), base_model) != key
    assert features_key(replace(config, lora=None), base_model) == key


def test_a_checkpoint_of_another_run_is_refused(corpus, base_model, tmp_path):
    train(corpus, base_model, tmp_path, Settings(2, 2, batch=4))
    with pytest.raises(UsageError, match="other settings"):
        train(corpus, base_model, tmp_path, Settings(4, 2, batch=4, lr=1e-3))


def test_a_checkpoint_of_another_corpus_is_refused(corpus, base_model, tmp_path):
    data, other = prepared(corpus, base_model)["train"], tmp_path / "other"
    assert data.hash() == prepared(corpus, base_model)["train"].hash() != data.only(range(1, len(data))).hash()
    train(corpus, base_model, tmp_path, Settings(2, 2, batch=4))
    other.mkdir()
    for shard in corpus.glob("clips-*.parquet"):
        table = pq.read_table(shard)
        at = table.column_names.index("mos")
        pq.write_table(table.set_column(at, "mos", pc.subtract(table["mos"], 0.1)), other / shard.name)
    with pytest.raises(UsageError, match="other settings"):
        train(other, base_model, tmp_path, Settings(2, 2, batch=4))


def learn(corpus, base_model, out, changes, parts):
    """The figures, the projector, and the encoder where it is trained, after a few steps of learning to score."""
    config = replace(store.ModelConfig.load(base_model), **changes)
    data = read([Shards.open(str(corpus))], features_key(config, base_model))
    torch.manual_seed(0)
    model, lines = store.create(config), []
    options = {"made_with": {}, "tell": lambda line, _: lines.append(line["loss"])}
    out.mkdir(exist_ok=True)
    scores.train(model, data, out, Settings(score_steps=4, batch=2, parts=parts, report_every=1), **options)
    learnt = model.projector, *store.trained_of_encoder(model)
    return lines, {f"{i}.{n}": p.detach() for i, part in enumerate(learnt) for n, p in part.named_parameters()}


def _worker(rank, address, corpus, base_model, out, changes):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save(learn(corpus, base_model, out, changes, parts=1), out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("changes", [{}, {"projector": "context"}, {"encoder_training": "full"}])
def test_two_workers_learn_what_one_learns_in_two_parts(corpus, base_model, tmp_path, changes):
    """Also what only a part with references teaches, which one of the two may not have."""
    prepared(corpus, base_model)
    given = (f"file://{tmp_path}/meet", corpus, base_model, tmp_path, changes)
    torch.multiprocessing.start_processes(_worker, given, nprocs=2, start_method="fork")
    alone, weights = learn(corpus, base_model, tmp_path / "alone", changes, parts=2)
    for rank in range(2):
        losses, learnt = torch.load(tmp_path / f"{rank}.pt")
        assert losses == pytest.approx(alone, rel=1e-3)
        # Adam makes whole steps of gradients near nothing, whose sign is the rounding of the machine's
        assert all((learnt[name] - weight).abs().mean() < 3e-5 for name, weight in weights.items())
    assert (tmp_path / "scores.pt").is_file()


def test_a_projector_with_context_first_learns_to_listen(corpus, base_model, tmp_path, capsys):
    trained = train(corpus, base_model, tmp_path / "linear", Settings(1, 1, batch=4))
    grown = replace(store.ModelConfig.load(trained), projector="context")
    grown.save(trained)
    capsys.readouterr()
    model = train(
        corpus, trained, tmp_path / "out", Settings(1, 1, batch=2, listen_steps=75, lr=2e-3, reference_steps=1)
    )
    heard = [json.loads(line) for line in capsys.readouterr().out.splitlines()][:3]
    assert heard[-1]["loss"] < 0.9 * heard[0]["loss"] and {"r_mos", "recall", "precision"} <= set(heard[-1])
    state = store.load_file(model / "trained.safetensors")
    assert state["projector.context.outside.weight"].abs().max() > 1e-3
    assert state["projector.difference.outside.weight"].abs().max() > 1e-3
    assert store.load(model).config.projector == "context"


@pytest.fixture
def packed_base(config, bases, tmp_path):
    """A directory to train from whose encoder lies packed in it, as that of the model that ships does."""
    root = tmp_path / "packed"
    made = config(encoder_layers="all", projector="context", score_layers=2, encoder_training="full")
    encoder = store.load_encoder(made)
    encoder.config.save_pretrained(root / "encoder")
    store.save_file(pack.pack_encoder(encoder.model.state_dict(), 500), root / "encoder" / "packed.safetensors")
    replace(made, encoder="encoder").save(root)
    return root


def test_an_encoder_that_is_trained_takes_the_place_of_the_packed_one(corpus, packed_base, tmp_path):
    base = (packed_base / "encoder" / "packed.safetensors").read_bytes()
    settings = Settings(2, 1, batch=2, listen_steps=2, reference_steps=1, warmup=1, lr=1e-2)
    out = train(corpus, packed_base, tmp_path / "out", settings)
    assert (packed_base / "encoder" / "packed.safetensors").read_bytes() == base
    state = store.load_file(out / "trained.safetensors")
    assert not any(name.startswith("encoder.") for name in state) and "projector.linear.weight" in state
    model, was = store.load(out), store.load_encoder(store.ModelConfig.load(packed_base), packed_base)
    assert model.config.encoder_training == "frozen"
    before, after = was.model.state_dict(), model.encoder.model.state_dict()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert moved["layers.0.self_attn.q_proj.weight"] > 1e-4 and moved["conv1.weight"] > 1e-4
    name, stages = "layers.1.fc1.weight", {}
    for stage in ("listen", "scores", "references", "words"):
        stages[stage] = torch.load(tmp_path / "out" / f"{stage}.pt", weights_only=True)["model"]
    assert not (stages["listen"][f"encoder.0.model.{name}"] == before[name]).all()
    assert not any("encoder." in n for stage in ("references", "words") for n in stages[stage])
    learnt = stages["scores"]
    close = (after[name] - learnt[f"encoder.model.{name}"]).abs().max()
    assert close < 0.02 * after[name].abs().max() and close < moved[name]
    train(corpus, out, tmp_path / "on", Settings(1, 1, batch=2, listen_steps=0, reference_steps=1))  # on its features
    replace(model.config, encoder_training="full").save(out)
    packed = (out / "encoder" / "packed.safetensors").read_bytes()
    words_alone = train(corpus, out, tmp_path / "words", Settings(0, 1, batch=4, listen_steps=0, reference_steps=0))
    assert (words_alone / "encoder" / "packed.safetensors").read_bytes() == packed  # as it was, and not packed again
    assert store.load(tmp_path / "on").encoder.model.state_dict()[name].equal(after[name])


def test_references_alone_change_no_score_without_one(corpus, base_model, tmp_path):
    data = prepared(corpus, base_model)
    model = store.create(replace(store.ModelConfig.load(base_model), projector="context")).eval()
    features, reference = (data["train"].sound(np.arange(4), reference=r).features(model) for r in (False, True))
    single, double = model.score(features).detach(), model.score(features, reference).detach()
    lines = []
    references.train(model, data, tmp_path, Settings(reference_steps=2, batch=4, lr=1e-2, report_every=1),
                     made_with={}, tell=lambda line, _: lines.append(line))  # fmt: skip
    assert torch.equal(model.eval().score(features), single)
    assert not torch.equal(model.score(features, reference), double)
    assert "r_mos" in lines[-1]
    data["train"].paired[:] = False
    assert references.train(model, data, tmp_path, Settings(), made_with={}) is None  # nothing to learn from
