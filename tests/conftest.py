"""Tiny random bases in a directory, as they come from the hub; weights are large enough for attention to matter."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from support import coders
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperModel,
)

from sqllm import DIMENSIONS
from sqllm.corpus import simulate
from sqllm.model.config import LoRA, ModelConfig

TEXT = [
    "You judge the quality of speech from 1 (bad) to 5 (excellent). Rate it. Clean reference: Answer: ",
    "mos: 3.4 noi: 2.1 col: 4.5 dis: 1.0 loud: 5.0. A strict listener. mos: 100 200 300 123 456 789 10 20 30 12 45",
] * 8
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLITS = {
    "smollm2": lambda: [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
    "llama3": lambda: [
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "gpt2": lambda: [pre_tokenizers.ByteLevel(add_prefix_space=False)],  # " 3" is one token: no answer tree
}


def make_tokenizer(split: str, chat_template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[split]())
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = chat_template
    return fast


@pytest.fixture(scope="session")
def tokenizers():
    return {"smollm2": make_tokenizer("smollm2", CHATML), "llama3": make_tokenizer("llama3", None)} | {
        "gpt2": make_tokenizer("gpt2", None)
    }


@pytest.fixture(scope="session")
def bases(tmp_path_factory, tokenizers):
    """A directory with the encoders `whisper` and `ast` and the language models `smollm2` and `llama3`."""
    root = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    whisper = WhisperConfig(
        vocab_size=64, d_model=64, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=64, init_std=0.15,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(whisper).save_pretrained(root / "whisper")
    ast = ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.15,
        num_labels=3,
    )  # fmt: skip
    classifier = ASTForAudioClassification(ast)  # what lies on the hub
    embeddings = classifier.audio_spectrogram_transformer.embeddings
    embeddings.position_embeddings.data.normal_(0, 0.15)
    classifier.save_pretrained(root / "ast")
    for name in ("smollm2", "llama3"):
        llama = LlamaConfig(
            vocab_size=len(tokenizers[name]), hidden_size=64, intermediate_size=128, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, tie_word_embeddings=name == "smollm2",
            max_position_embeddings=2048,
        )  # fmt: skip
        LlamaForCausalLM(llama).save_pretrained(root / name)
        tokenizers[name].save_pretrained(root / name)
    return root


@pytest.fixture(scope="session")
def config(bases):
    """config(encoder="whisper", language_model="smollm2", **ModelConfig's)."""

    def make(encoder="whisper", language_model="smollm2", **kwargs):
        return ModelConfig(str(bases / encoder), str(bases / language_model), **{"audio_tokens": 8} | kwargs)

    return make


@pytest.fixture(scope="session")
def speech():
    """speech(seconds, seed=0): float32 [samples], voiced sounds in syllables over a little noise."""

    def make(seconds: float, seed: int = 0) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed)
        n = round(seconds * 16000)
        t = torch.arange(n) / 16000
        pitch = 110 + 40 * torch.sin(2 * torch.pi * 0.7 * t + seed)
        phase = 2 * torch.pi * torch.cumsum(pitch, 0) / 16000
        voice = sum(torch.sin(k * phase) / k for k in range(1, 25))
        envelope = torch.sin(2 * torch.pi * 2 * t + seed).clamp(min=0)
        return 0.1 * voice * envelope + 0.001 * torch.randn(n, generator=g)

    return make


@pytest.fixture(scope="session")
def base_model(config, tmp_path_factory):
    """A directory to train from: a tiny model with score layers."""
    root = tmp_path_factory.mktemp("bases")
    config("whisper", "smollm2", score_layers=2, encoder_layers="all", lora=LoRA(dropout=0.0)).save(root)
    return root


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, speech):
    """48 simulated clips of four talkers in two shards, as `sqllm corpus simulate` writes them."""
    coders.needed()
    root, out = tmp_path_factory.mktemp("speech"), tmp_path_factory.mktemp("corpus")
    names = [f"talker{i}" for i in range(40)]
    chosen = [n for n in names if not simulate.is_val(n)][:3] + [n for n in names if simulate.is_val(n)][:1]
    for i, name in enumerate(chosen):
        (root / name).mkdir()
        soundfile.write(root / name / "a.wav", speech(4.0, seed=i).numpy(), 16000)
    pool = simulate.Pool(str(root), None, None)
    for shard in range(2):
        pq.write_table(simulate.table(pool, 1, range(24 * shard, 24 * shard + 24)), out / f"clips-{shard:05d}.parquet")
    return out


@pytest.fixture(scope="session")
def nisqa(tmp_path_factory, speech):
    """The layout of the NISQA corpus with audio: 12 recordings to train, 4 to validate, 1 to test. The more noise, the
    lower `noi`; every other one has mos alone, every third no reference, and one is longer than a window."""
    root, rng = tmp_path_factory.mktemp("nisqa"), np.random.default_rng(0)
    ratings = [f"{d}{part}" for part in ("", "_std") for d in DIMENSIONS]
    head = ["db", "con", "con_description", "source", "votes", *ratings, "filepath_deg", "filepath_ref"]
    for db, count in (("NISQA_TRAIN_SIM", 12), ("NISQA_VAL_SIM", 4), ("NISQA_TEST_P501", 1)):
        for kind in ("deg", "ref"):
            (root / db / kind).mkdir(parents=True)
        lines = [head]
        for i in range(count):
            clean, level = speech(12.0 if i == 0 else 3.0, seed=len(db) + i).numpy(), rng.uniform(0, 0.02)
            soundfile.write(root / db / "ref" / f"{i}.wav", clean, 16000)
            soundfile.write(root / db / "deg" / f"{i}.wav", clean + level * rng.standard_normal(len(clean)), 16000)
            noi = 5 - 150 * level
            rated = [(noi + 4) / 2, *([noi, 4.2, 4.1, 4.0] if i % 2 else [""] * 4), 0.7, *[""] * 4]
            files = [f"{db}/deg/{i}.wav", f"{db}/ref/{i}.wav" if i % 3 else ""]
            lines.append([db, i, "simulated", "DNS", 5, *rated, *files])
        text = "\n".join(",".join(map(str, line)) for line in lines)
        (root / db / f"{db}_file.csv").write_text(text + "\n")
    return root
