"""Training in one process, from a simulated corpus to a model directory.

1. `features`: the frozen encoder hears every clip once; what the projector needs of it is kept beside the corpus.
2. `scores`: projector and the lower layers' LoRA learn the answer tree's distributions.
3. `words`: the upper layers' LoRA learns to answer questions. It cannot change a score.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sqllm.errors import UsageError
from sqllm.model import store
from sqllm.model.config import ModelConfig
from sqllm.training import features, scores, words
from sqllm.training.data import read


def train(
    corpus: Path,
    bases: Path,
    out: Path,
    score_steps: int,
    word_steps: int,
    batch: int = 8,
    lr: float = 5e-4,
    seed: int = 1,
) -> Path:
    """Train a model on the shards of `sqllm.corpus.simulate` and write it to `out`.

    `bases` is a directory with the configuration and the base models. Prints a line of JSON now and then;
    checkpoints lie in `out`, and a run that was cut off goes on from them. UsageError where the corpus or the
    configuration does not do.
    """
    config = ModelConfig.load(bases)
    if config.encoder_training != "frozen":
        raise UsageError(
            f"encoder_training is {config.encoder_training!r}: this loop trains with a frozen encoder only"
        )
    if config.lora is None or config.score_layers is None:
        raise UsageError("this loop needs lora and score_layers: words are learned above the layers that give scores")
    if not any(corpus.glob("clips-*.parquet")):
        raise UsageError(f"no shards clips-*.parquet in {corpus}: `python -m sqllm.corpus.simulate --help` makes them")
    out.mkdir(parents=True, exist_ok=True)
    encoder = store.load_encoder(config, bases).eval()
    encoder.model.to(torch.bfloat16)
    key = features.features_key(config, bases)
    features.prepare(encoder, corpus, key)
    data = read(corpus, key)
    torch.manual_seed(1)
    model = store.create(config, bases, torch.bfloat16).train()
    settings = {"clips": len(data["train"]), "features": key, "batch": batch, "lr": lr}
    scores.train(model, data, out, settings, score_steps, batch, lr)
    words.train(model, data, out, settings, word_steps, max(1, batch // 4), lr=lr)
    return store.save(model, out, bases)
