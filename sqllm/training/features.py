"""Pooled features of a corpus, computed once: while the encoder is frozen, no step of training needs it again.

Beside each shard `clips-00000.parquet` a file `clips-00000.KEY.npy`, whose key names encoder, layers and tokens:
float16 [clips, 2, layers, tokens, width], of the degraded clip and of its reference (zeros where it has none). The
reference is laid as the aligner leaves it: delay and drift are gone but for up to 10 ms, and now and then (`WRONG`) it
is another clip's, so that the model learns how far to trust it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from sqllm.audio import RATE
from sqllm.corpus.shards import Shards, samples
from sqllm.model import store
from sqllm.model.config import ModelConfig
from sqllm.model.encoder import AudioEncoder, bucket_length

WRONG = 0.04
OFF = RATE // 100
AT_ONCE = {"cpu": 1, "cuda": 64}  # windows: a CPU gains nothing from more


def features_name(shard: str, key: str) -> str:
    return f"{shard.removesuffix('.parquet')}.{key}.npy"


def features_key(config: ModelConfig, bases: Path | None) -> str | None:
    """None where the encoder is trained: then it hears the clips in every step."""
    if config.encoder_training != "frozen":
        return None
    parts = [store.base_hashes(config, bases)["encoder"], config.encoder_layers, config.audio_tokens]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


@torch.inference_mode()
def encode(encoder: AudioEncoder, windows: Sequence[np.ndarray], out: np.ndarray) -> None:
    """Pooled features of windows, float32 [n], into `out` [windows, layers, tokens, width]."""
    device = next(encoder.parameters()).device
    by_length: dict[int, list[int]] = {}
    for i, x in enumerate(windows):
        by_length.setdefault(bucket_length(len(x)), []).append(i)
    size = AT_ONCE[device.type]
    for length, found in by_length.items():
        for at in (found[first : first + size] for first in range(0, len(found), size)):
            padded = np.zeros((len(at), length), np.float32)
            for row, i in zip(padded, at, strict=True):
                row[: len(windows[i])] = windows[i]
            lengths = torch.tensor([len(windows[i]) for i in at], device=device)
            out[at] = encoder(torch.from_numpy(padded).to(device), lengths).float().cpu().numpy()


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
    encode(encoder, [samples(row["audio"]) for row in table], out[:, 0])
    paired = [i for i, row in enumerate(table) if row["reference"]]
    under = []
    for i, own in zip(paired, references, strict=True):
        rng = np.random.default_rng([table[i]["index"], 0])
        under.append(laid(own, lambda rng=rng: references[rng.integers(len(references))], rng))
    heard = np.zeros((len(under), *out.shape[2:]), np.float16)
    encode(encoder, under, heard)
    out[paired, 1] = heard
    shards.write_array(features_name(name, key), out)
