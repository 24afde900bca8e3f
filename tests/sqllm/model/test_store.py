import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sqllm.errors import UsageError
from sqllm.model import pack
from sqllm.model.config import LoRA, ModelConfig
from sqllm.model.store import (
    autocast,
    create,
    fast_dtype,
    fingerprint,
    load,
    mark_trainable,
    parts,
    resolve,
    save,
    trained_state,
)

FROZEN = {"projector.norm.weight", "projector.norm.bias", "projector.linear.weight", "projector.linear.bias"}


def trained(config, directory=None, seed=0):
    """A model whose trained weights are not what `create` would make again."""
    torch.manual_seed(seed)
    model = create(config, directory)
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn_like(p)
    return model.eval()


def keep(model, directory):
    return save(model, directory, dtype=torch.float32)


@torch.no_grad()
def scores(model):
    x = torch.randn(2, model.encoder.depth, 8, model.encoder.width, generator=torch.Generator().manual_seed(0))
    return model.score(x)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"language_model": "llama3", "encoder": "ast", "encoder_training": "query"},
        {"encoder_layers": "all", "score_layers": 1, "lora": None, "encoder_training": "full"},
    ],
)
@torch.no_grad()
def test_round_trip(config, speech, tmp_path, changes):
    model = trained(config(**changes))
    keep(model, tmp_path / "m")
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"config.json", "trained.safetensors", "base.json"}
    back = load(tmp_path / "m", merge=False)
    assert not back.training and not any(p.requires_grad for p in back.parameters())
    assert torch.equal(scores(back), scores(model))
    x, n = speech(2.0)[None], torch.tensor([32000])
    assert torch.equal(back.features(x, n), model.features(x, n))


def test_a_packed_encoder_elsewhere_is_left_alone(config, tmp_path):
    model, other = trained(config(encoder_training="full")), tmp_path / "elsewhere"
    model.encoder.config.save_pretrained(other)
    packed = pack.pack_encoder(model.encoder.model.state_dict(), 500)
    save_file({n: w * 0 for n, w in packed.items()}, other / "packed.safetensors")
    before = (other / "packed.safetensors").read_bytes()
    model.config.encoder = "../elsewhere"
    keep(model, tmp_path / "out")
    assert (other / "packed.safetensors").read_bytes() == before
    assert {path.name for path in parts(tmp_path / "out")} == {"config.json", "base.json", "trained.safetensors"}


def test_merged_lora_scores_as_lora_does(config, tmp_path):
    model = trained(config(lora=LoRA(r=4, targets=["q_proj", "k_proj", "v_proj"])))
    keep(model, tmp_path)
    merged = load(tmp_path)
    assert not any("lora" in n for n, _ in merged.named_parameters())
    torch.testing.assert_close(scores(merged), scores(model), atol=1e-4, rtol=0)
    fresh = create(model.config).eval()
    fresh.projector.load_state_dict(model.projector.state_dict())
    assert (scores(fresh) - scores(model)).abs().max() > 0.01  # LoRA does something


def test_scores_read_early_have_a_norm_of_their_own(config, tmp_path):
    model = trained(config(score_layers=1))
    keep(model, tmp_path)
    assert "language.score_norm.weight" in load_file(tmp_path / "trained.safetensors")
    before = scores(model)
    model.language.base.model.layers[1:].requires_grad_(False)
    for layer in model.language.base.model.layers[1:]:
        for p in layer.parameters():
            p.data.zero_()
    assert torch.equal(scores(model), before)  # nothing past the first layer is heard
    model.language.base.model.layers[0].mlp.down_proj.weight.data.zero_()
    assert not torch.equal(scores(model), before)


@pytest.mark.parametrize("encoder_training", ["frozen", "query", "full"])
def test_what_is_trained(config, encoder_training):
    model = create(config("ast", encoder_training=encoder_training))
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    adapters = {n for n in names if ".lora_" in n}
    assert len(adapters) == 3 * 2 * 2  # layers x (q, k) x (A, B)
    encoder = {n for n in names if n.startswith("encoder.")}
    assert names == FROZEN | adapters | encoder
    expected = {
        "frozen": set(),
        "query": {f"encoder.model.layers.{i}.attention.q_proj.{p}" for i in (0, 1) for p in ("weight", "bias")},
        "full": {f"encoder.{n}" for n, _ in model.encoder.named_parameters()},
    }
    assert encoder == expected[encoder_training]
    assert set(trained_state(model)) >= encoder | FROZEN


def test_scores_and_words_are_trained_apart(config):
    def names(what):
        mark_trainable(model, what)
        return {n for n, p in model.named_parameters() if p.requires_grad}

    model = create(config("ast", encoder_training="query", score_layers=1))
    whole, scored, words = names("all"), names("scores"), names("words")
    assert scored | words == whole and not scored & words
    assert len(words) == 2 * 2 * 2 and all(".lora_" in n and ".layers.0." not in n for n in words)


def test_untrained_or_unknown_directories_are_refused(config, tmp_path):
    with pytest.raises(UsageError, match="no model"):
        load(tmp_path / "nowhere")
    config().save(tmp_path)
    with pytest.raises(UsageError, match="never trained"):
        load(tmp_path)
    with pytest.raises(UsageError, match="train it"):
        resolve("paper")
    (tmp_path / "config.json").write_text('{"encoder": "a", "colour": "b"}')
    with pytest.raises(UsageError, match="not a SpeechQualityLLM configuration"):
        ModelConfig.load(tmp_path)


def test_incomplete_weights_are_refused(config, tmp_path):
    save(trained(config()), tmp_path)
    state = load_file(tmp_path / "trained.safetensors")
    for wrong in (
        {n: w for n, w in state.items() if n != "projector.linear.bias"},
        {n: w for n, w in state.items() if not n.startswith("lora.")},
        state | {"encoder.model.nowhere": torch.zeros(1)},
    ):
        save_file(wrong, tmp_path / "trained.safetensors")
        with pytest.raises(UsageError, match="do not fit"):
            load(tmp_path)


def test_bases_inside_the_source_are_copied(config, bases, tmp_path):
    model = trained(replace(config(), encoder="whisper", language_model="smollm2"), directory=bases)
    save(model, tmp_path / "m", source=bases, dtype=torch.float32)
    moved = shutil.move(tmp_path / "m", tmp_path / "elsewhere")
    torch.testing.assert_close(scores(load(moved)), scores(model), atol=1e-4, rtol=0)
    assert "model.safetensors" in json.loads((moved / "base.json").read_text())["encoder"]
    save(trained(config()), moved, source=bases)  # bases named by whole paths stay where they are
    save(model, moved, source=moved)
    assert load(moved)


def test_other_base_weights_are_refused(config, bases, tmp_path):
    shutil.copytree(bases, tmp_path / "bases")
    here = replace(config(), encoder=str(tmp_path / "bases/whisper"), language_model=str(tmp_path / "bases/smollm2"))
    save(trained(here), tmp_path / "m")
    load(tmp_path / "m")
    file = tmp_path / "bases/smollm2/model.safetensors"
    save_file({n: w + 1e-3 for n, w in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(UsageError, match="another language_model"):
        load(tmp_path / "m")


def test_a_missing_base_is_an_error_in_words(config, tmp_path):
    save(trained(config()), tmp_path)
    written = json.loads((tmp_path / "config.json").read_text()) | {"encoder": str(tmp_path / "gone")}
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(UsageError, match="encoder"):
        load(tmp_path)


def test_fingerprint_follows_what_changes_scores(config, tmp_path):
    model = trained(config())
    keep(model, tmp_path / "a")
    first = fingerprint(tmp_path / "a", model.prompt)
    assert len(first) == 12 and fingerprint(keep(model, tmp_path / "b"), model.prompt) == first
    model.projector.linear.bias.data[0] += 1e-3
    assert fingerprint(keep(model, tmp_path / "b"), model.prompt) != first
    assert fingerprint(keep(model, tmp_path / "a"), model.prompt) != first  # also where a file is written over
    assert fingerprint(keep(trained(config("ast")), tmp_path / "c"), model.prompt) != first


def test_weights_kept_in_half_score_nearly_the_same(config, tmp_path):
    model = trained(config())
    save(model, tmp_path)
    assert {w.dtype for w in load_file(tmp_path / "trained.safetensors").values()} == {torch.float16}
    torch.testing.assert_close(scores(load(tmp_path)), scores(model), atol=0.05, rtol=0)


@torch.no_grad()
def test_half_precision_scores_about_the_same(config, tmp_path):
    model = trained(config("ast", encoder_layers="all", score_layers=2))
    keep(model, tmp_path)
    half = load(tmp_path, dtype=torch.bfloat16)
    assert half.language.base.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    rotary, exact = half.language.base.model.rotary_emb, model.language.base.model.rotary_emb
    assert torch.equal(rotary.inv_freq, exact.inv_freq)  # rounded frequencies would turn far positions by whole radians
    assert (scores(half) - scores(model)).abs().mean() < 0.3


@pytest.mark.timeout(120)
@pytest.mark.parametrize("score_layers", [None, 2])
@torch.no_grad()
def test_nf4(config, speech, tmp_path, score_layers):
    model = trained(config(language_model="llama3", quantization="nf4", score_layers=score_layers))
    assert "Linear4bit" in {type(m).__name__ for m in model.modules()}
    expected = scores(model)
    assert expected.isfinite().all()
    keep(model, tmp_path)
    assert not any("quant" in n for n in load_file(tmp_path / "trained.safetensors"))
    back = load(tmp_path)
    torch.testing.assert_close(scores(back), expected, atol=1e-3, rtol=0)
    plain = create(replace(model.config, quantization=None))
    plain.projector.load_state_dict(model.projector.state_dict())
    assert (scores(plain.eval()) - expected).abs().max() > 1e-3  # four bits are heard


@pytest.mark.parametrize("fast", [True, False])
def test_products_are_in_bfloat16_only_where_that_is_fast(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast, raising=False)
    with autocast("cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == fast_dtype("cpu") == (torch.bfloat16 if fast else torch.float32)
    assert fast_dtype("cuda:0") == torch.bfloat16
