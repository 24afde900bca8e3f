"""Pooled features of a simulated corpus, computed once: the encoder is frozen, so no step of training needs it again.

Beside each shard `clips-00000.parquet` a file `clips-00000.KEY.npy`, whose key names encoder, layers and tokens:
float16 [clips, 2, layers, tokens, width], of the degraded clip and of its reference. The reference is laid as the
aligner leaves it: delay and drift are gone but for up to 10 ms, and now and then (`WRONG`) it is another clip's, so
that the model learns how far to trust it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile as sf
import torch
from torch import Tensor

from sqllm.audio import RATE
from sqllm.model import store
from sqllm.model.config import ModelConfig
from sqllm.model.encoder import AudioEncoder, bucket_length

WRONG = 0.04
OFF = RATE // 100


def features_path(shard: Path, key: str) -> Path:
    return shard.with_suffix(f".{key}.npy")


def features_key(config: ModelConfig, bases: Path) -> str:
    parts = [store.base_hashes(config, bases)["encoder"], config.encoder_layers, config.audio_tokens]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def samples(flac: bytes) -> np.ndarray:
    return sf.read(io.BytesIO(flac), dtype="float32")[0]


@torch.inference_mode()
def encode(encoder: AudioEncoder, x: np.ndarray) -> Tensor:
    """Pooled features [layers, tokens, width] of one window, float32 [n]."""
    padded = torch.zeros(1, bucket_length(len(x)))
    padded[0, : len(x)] = torch.from_numpy(x)
    return encoder(padded, torch.tensor([len(x)]))[0]


def laid(references: list[np.ndarray], i: int, rng: np.random.Generator) -> np.ndarray:
    """The reference of clip i, as the aligner may leave it."""
    x, n = references[i], len(references[i])
    if rng.random() < WRONG:
        x = np.resize(references[rng.integers(len(references))], n)
    shift = int(rng.integers(-OFF, OFF + 1)) if rng.random() < 0.5 else 0
    return np.roll(x, shift)


def missing(corpus: Path, key: str) -> list[Path]:
    """The shards whose features are not there yet."""
    return [shard for shard in sorted(corpus.glob("clips-*.parquet")) if not features_path(shard, key).exists()]


def prepare(config: ModelConfig, bases: Path, corpus: Path, key: str) -> None:
    """Compute what is missing."""
    if todo := missing(corpus, key):
        encoder = load_encoder(config, bases)
        for shard in todo:
            prepare_shard(encoder, shard, key)


def load_encoder(config: ModelConfig, bases: Path) -> AudioEncoder:
    encoder = store.load_encoder(config, bases).eval()
    encoder.model.to(torch.bfloat16)
    return encoder


def prepare_shard(encoder: AudioEncoder, shard: Path, key: str) -> None:
    """Write the features of one shard; they appear whole or not at all."""
    table = pq.read_table(shard, columns=["index", "audio", "reference"]).to_pylist()
    references = [samples(row["reference"]) for row in table]
    out = np.empty((len(table), 2, encoder.depth, encoder.tokens, encoder.width), np.float16)
    for i, row in enumerate(table):
        rng = np.random.default_rng([row["index"], 0])
        for j, x in enumerate((samples(row["audio"]), laid(references, i, rng))):
            out[i, j] = encode(encoder, x).float().numpy()
    path = features_path(shard, key)
    temporary = path.with_suffix(f".{os.getpid()}.tmp.npy")
    np.save(temporary, out)
    os.replace(temporary, path)
