"""Pooled features of a corpus, computed once: while the encoder is frozen, no step of training needs it again.

Beside each shard `clips-00000.parquet` a file `clips-00000.KEY.npy`, whose key names encoder, layers and tokens:
float16 [clips, 2, layers, tokens, width], of the degraded clip and of its reference (zeros where it has none). The
reference is laid as the aligner leaves it: delay and drift are gone but for up to 10 ms, and now and then (`WRONG`) it
is another clip's, so that the model learns how far to trust it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sqllm.audio import RATE
from sqllm.corpus.shards import Shards, samples
from sqllm.model import store
from sqllm.model.config import ModelConfig
from sqllm.model.encoder import AudioEncoder, bucket_length

WRONG = 0.04
OFF = RATE // 100


def features_name(shard: str, key: str) -> str:
    return f"{shard.removesuffix('.parquet')}.{key}.npy"


def features_key(config: ModelConfig, bases: Path | None) -> str | None:
    """None where the encoder is trained: then it hears the clips in every step."""
    if config.encoder_training != "frozen":
        return None
    parts = [store.base_hashes(config, bases)["encoder"], config.encoder_layers, config.audio_tokens]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


@torch.inference_mode()
def encode(encoder: AudioEncoder, x: np.ndarray) -> Tensor:
    """Pooled features [layers, tokens, width] of one window, float32 [n]."""
    padded = torch.zeros(1, bucket_length(len(x)))
    padded[0, : len(x)] = torch.from_numpy(x)
    device = next(encoder.parameters()).device
    return encoder(padded.to(device), torch.tensor([len(x)], device=device))[0].cpu()


def laid(reference: np.ndarray, another: Callable[[], np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A reference as the aligner may leave it; `another()` gives that of another clip."""
    x = np.resize(another(), len(reference)) if rng.random() < WRONG else reference
    shift = int(rng.integers(-OFF, OFF + 1)) if rng.random() < 0.5 else 0
    return np.roll(x, shift)


def missing(shards: Shards, key: str | None) -> list[str]:
    """The shards whose features are not there yet."""
    there = shards.files() if key else set()
    return [name for name in shards.names() if key and features_name(name, key) not in there]


def load_encoder(config: ModelConfig, bases: Path | None, device: str = "cpu") -> AudioEncoder:
    encoder = store.load_encoder(config, bases).eval()
    encoder.model.to(store.fast_dtype(device))
    return encoder.to(device)


def prepare_shard(encoder: AudioEncoder, shards: Shards, name: str, key: str) -> None:
    """Write the features of one shard; they appear whole or not at all."""
    table = shards.table(name, ["index", "audio", "reference"]).to_pylist()
    references = [samples(row["reference"]) for row in table if row["reference"]]
    out = np.zeros((len(table), 2, encoder.depth, encoder.tokens, encoder.width), np.float16)
    for row, features in zip(table, out, strict=True):
        rng = np.random.default_rng([row["index"], 0])
        features[0] = encode(encoder, samples(row["audio"])).float().numpy()
        if row["reference"]:
            x = laid(samples(row["reference"]), lambda rng=rng: references[rng.integers(len(references))], rng)
            features[1] = encode(encoder, x).float().numpy()
    shards.write_array(features_name(name, key), out)
