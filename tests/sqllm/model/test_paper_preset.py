"""The paper's model at its full shape, on the meta device: what a GPU box with the weights would load fits in."""

from dataclasses import replace

import pytest
import torch
from transformers import ASTConfig, ASTForAudioClassification, LlamaConfig, LlamaForCausalLM

from sqllm.model.config import PRESETS
from sqllm.model.encoder import AudioEncoder
from sqllm.model.language import LanguageModel
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.model.store import mark_trainable, trained_state

LLAMA_8B = dict(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=False,
    rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
)  # fmt: skip


def shapes(module):
    return {n: tuple(p.shape) for n, p in module.named_parameters()}


@pytest.fixture(scope="module")
def paper(tokenizers):
    config = PRESETS["paper"]
    with torch.device("meta"):
        encoder = AudioEncoder(ASTConfig(), config.encoder_layers, config.audio_tokens)
        language = LanguageModel(LlamaForCausalLM(LlamaConfig(**LLAMA_8B)), config.score_layers)
        language.add_lora(config.lora)
        model = SpeechQualityLLM(config, encoder, language, tokenizers["llama3"])
    mark_trainable(model)
    return model


def test_settings_are_those_of_the_paper():
    paper, whisper = PRESETS["paper"], PRESETS["paper-whisper"]
    assert (paper.lora.r, paper.lora.alpha, paper.lora.dropout) == (16, 32, 0.05)
    assert sorted(paper.lora.targets) == ["k_proj", "q_proj"]
    assert (paper.audio_tokens, paper.quantization, paper.encoder_layers) == (128, "nf4", "last")
    assert (paper.encoder_training, whisper.encoder_training) == ("query", "frozen")
    assert replace(whisper, encoder=paper.encoder, encoder_training="query") == paper


def test_the_language_model_has_a_place_for_each_weight_of_llama(paper):
    with torch.device("meta"):
        theirs = shapes(LlamaForCausalLM(LlamaConfig(**LLAMA_8B)))
    ours = {n.replace(".base_layer.", "."): s for n, s in shapes(paper.language.base).items() if ".lora_" not in n}
    assert ours == theirs
    # as published: tensors, parameters and a few shapes
    assert len(ours) == 291 and sum(torch.Size(s).numel() for s in ours.values()) == 8_030_261_248
    assert ours["model.layers.31.self_attn.k_proj.weight"] == (1024, 4096)
    assert ours["model.layers.0.mlp.down_proj.weight"] == (4096, 14336)
    assert ours["lm_head.weight"] == ours["model.embed_tokens.weight"] == (128256, 4096)


def test_the_encoder_has_a_place_for_each_weight_of_ast(paper):
    prefix = "audio_spectrogram_transformer."
    with torch.device("meta"):
        theirs = shapes(ASTForAudioClassification(ASTConfig(num_labels=527)))
    assert sum(torch.Size(s).numel() for s in theirs.values()) == pytest.approx(86.6e6, rel=1e-3)
    ours = shapes(paper.encoder.model)
    assert ours == {n.removeprefix(prefix): s for n, s in theirs.items() if n.startswith(prefix)}
    assert ours["embeddings.position_embeddings"] == (1, 1214, 768) and (paper.encoder.depth, paper.encoder.width) == (
        1,
        768,
    )


def test_what_is_trained_and_how_much(paper):
    assert shapes(paper.projector) == {
        "norm.weight": (768,), "norm.bias": (768,), "linear.weight": (4096, 768), "linear.bias": (4096,),
    }  # fmt: skip
    lora = {n: p for n, p in paper.named_parameters() if ".lora_" in n}
    # per layer: q 4096 -> 4096 and k 4096 -> 1024, each as two matrices of rank 16
    assert sum(p.numel() for p in lora.values()) == 32 * 16 * ((4096 + 4096) + (4096 + 1024)) == 6_815_744
    assert all(p.requires_grad for p in lora.values())
    queries, projector = 12 * (768 * 768 + 768), 2 * 768 + 4096 * 769
    assert sum(p.numel() for p in paper.parameters() if p.requires_grad) == 6_815_744 + queries + projector
    assert sum(p.numel() for p in trained_state(paper).values()) == sum(
        p.numel() for p in paper.parameters() if p.requires_grad
    )


def test_a_window_becomes_128_tokens_of_the_language_model(paper):
    audio = torch.zeros(2, 1, 128, 768, device="meta")
    assert [x.shape for x in paper.projector(audio, audio)] == [(2, 128, 4096)] * 2
    ids = torch.zeros(2, 5, dtype=torch.long, device="meta")
    hidden = paper.language.run(
        paper.language.embed(ids), torch.zeros(1, 1, 5, 5, device="meta"), torch.arange(5, device="meta")[None]
    )
    assert paper.language.score_logits(hidden).shape == (2, 5, 128256)
