"""`sqllm bench --preset NAME --random-weights`: a preset's model in its full size, with random weights, for its speed.

Speed does not depend on the weights. No score can come of it: it has no directory, and that is what is scored with.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from transformers import ASTConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedConfig, WhisperConfig

from sqllm import DIMENSIONS
from sqllm.audio.windows import WINDOW_S
from sqllm.bench import REPEATS, seconds_per_window, speech_like, synchronize
from sqllm.corpus import rated
from sqllm.corpus.shards import Shards, flac
from sqllm.errors import UsageError
from sqllm.model import store
from sqllm.model.config import PRESETS, ModelConfig, resolve
from sqllm.model.encoder import AudioEncoder
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.predictor import BATCH, Predictor
from sqllm.training import data, joint
from sqllm.training.settings import Settings

SHAPES: dict[str, PreTrainedConfig] = {  # by the names of `PRESETS`
    "MIT/ast-finetuned-audioset-10-10-0.4593": ASTConfig(),
    "openai/whisper-large-v2": WhisperConfig(
        d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120,
        max_source_positions=int(WINDOW_S * 50),
    ),
    "meta-llama/Llama-3.1-8B-Instruct": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072,
    ),
}  # fmt: skip
PEAK = {"cpu": 2048, "cuda": 8192}  # width of the matrices whose product is the measured peak
STEPS = 20  # of training; the second half is timed


def random_model(config: ModelConfig, device: str) -> SpeechQualityLLM:
    """Base weights in bfloat16 or 4 bits on `device`, and the tokenizer of the model that ships."""
    encoder = AudioEncoder(SHAPES[config.encoder], config.encoder_layers, config.audio_tokens)
    shape = SHAPES[config.language_model]
    with torch.device(device):
        lm = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    if config.quantization:
        options = store.lm_options(config, torch.bfloat16, device)
        lm = LlamaForCausalLM.from_pretrained(None, config=shape, state_dict=lm.state_dict(), **options)
    tokenizer = store.load_tokenizer(resolve("embedded") / "language_model")
    return store.join(config, encoder, lm, tokenizer).to(device)


def peak(device: str) -> float:
    """Operations per second of a large product of bfloat16 matrices: the median of a few."""
    n = PEAK[device]
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16)
    took = []
    for _ in range(REPEATS + 1):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        took.append(time.perf_counter() - start)
    return 2 * n**3 / float(np.median(took[1:]))


def operations(predictor: Predictor) -> float:
    """Of one window in the answer tree, single-ended."""
    with FlopCounterMode(display=False) as counter:
        predictor.score_windows(speech_like(1))
    return counter.get_total_flops()


def speeds(model: SpeechQualityLLM, batches: list[int]) -> Iterator[tuple[str, int, float]]:
    """Seconds per window of the answer tree and of the paper's way, by batch."""
    for mode, name in (("tree", "answer tree"), ("generate", "write and parse")):
        for batch in batches:
            predictor = Predictor(model, "random", mode)
            predictor.batch = batch
            yield name, batch, seconds_per_window(predictor, speech_like(batch), paired=False)


def corpus(folder: Path, clips: int) -> Shards:
    """Rated noise with itself as its reference."""
    rng, shards = np.random.default_rng(0), Shards.open(str(folder))
    rows = []
    for i, window in enumerate(speech_like(clips)):
        row = {"index": i, "recording": i, "audio": flac(window), "reference": flac(window), "paired": True}
        row |= {"uri": f"{i}.wav", "split": "val" if i % 8 == 0 else "train"}
        rows.append(row | {d: float(rng.uniform(1, 5)) for d in DIMENSIONS})
    shards.write("clips-00000.parquet", pa.Table.from_pylist(rows, rated.SCHEMA), group=1)
    return shards


def training(model: SpeechQualityLLM, settings: Settings) -> dict[str, float]:
    """Clips and tokens per second of the second half of some steps, with all that `sqllm train` does in them."""
    told: list[dict] = []
    model.encoder.float()
    model.train()
    if settings.gradient_checkpointing:
        for module in (model.language.base, model.encoder.model):
            module.gradient_checkpointing_enable({"use_reentrant": False})
    with tempfile.TemporaryDirectory() as folder:
        quick = replace(settings, steps=STEPS, report_every=STEPS // 2)
        clips = data.read([corpus(Path(folder), 8 * settings.batch)], None)
        joint.train(model, clips, Path(folder), quick, made_with={},
                    tell=lambda line, checkpoint: told.append(line))  # fmt: skip
    return told[-1]


def run(preset: str, device: str = "auto") -> None:
    """Print windows per second of the tree in bf16 and NF4 beside the paper's way, and a training step's speed."""
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r} of a size of its own; there are {', '.join(PRESETS)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settings, console = Settings.of(preset), Console(highlight=False)
    batches = sorted({settings.batch, BATCH[device]})
    most, per_window, trained = peak(device), None, {}
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    console.print(
        f"{preset} with random weights on {where}; products of matrices: {most / 1e12:.2f} TFLOPS at most",
        soft_wrap=True,
    )
    table = Table("of 10 s windows", "weights", "batch", "ms", "windows/s", "x real time", "of peak", pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for quantization in (None, "nf4"):
        model = random_model(replace(PRESETS[preset], quantization=quantization), device)
        trained = training(model, settings) if quantization == PRESETS[preset].quantization else trained
        store.cast(model.eval(), torch.bfloat16)
        per_window = per_window or operations(Predictor(model, "random"))
        for name, batch, s in speeds(model, batches):
            share = f"{per_window / s / most:.0%}" if name == "answer tree" else ""
            values = f"{1000 * s:.1f}", f"{1 / s:.2f}", f"{WINDOW_S / s:.0f}", share
            table.add_row(name, quantization or "bf16", str(batch), *values)
    console.print(table)
    console.print(f"{per_window / 1e12:.2f} TFLOP a window in the answer tree, counted in bf16")
    console.print(
        f"training in the preset's settings, {settings.batch} clips a step: {trained['clips_per_s']:.2f} clips/s, "
        f"{trained['tokens_per_s']:.0f} tokens/s"
    )
