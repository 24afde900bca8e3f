"""Training in one process, from a simulated corpus to a model directory.

1. `features`: the frozen encoder hears every clip once; what the projector needs of it is kept beside the corpus.
2. `listen`: a projector with context learns to rate a clip and its faults by itself.
3. `scores`: projector and the lower layers' LoRA learn the answer tree's distributions and the checklist of faults.
4. `words`: the upper layers' LoRA learns to answer questions. It cannot change a score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from sqllm.errors import UsageError
from sqllm.model import store
from sqllm.model.config import TRAINED, ModelConfig
from sqllm.training import features, listen, loop, scores, words
from sqllm.training.data import read
from sqllm.training.settings import Settings


def load_config(corpus: Path, bases: Path) -> ModelConfig:
    """The configuration in `bases`. UsageError where the corpus or the configuration does not do."""
    config = ModelConfig.load(bases)
    if config.encoder_training != "frozen":
        raise UsageError(
            f"encoder_training is {config.encoder_training!r}: this loop trains with a frozen encoder only"
        )
    if config.lora is None or config.score_layers is None:
        raise UsageError("this loop needs lora and score_layers: words are learned above the layers that give scores")
    if not any(corpus.glob("clips-*.parquet")):
        raise UsageError(f"no shards clips-*.parquet in {corpus}: `sqllm corpus simulate` makes them")
    return config


def train(
    corpus: Path,
    bases: Path,
    out: Path,
    settings: Settings,
    device: str = "cpu",
    tell: Callable[[str, dict, Path | None], None] = lambda stage, line, checkpoint: loop.tell(line, checkpoint),
    checkpoints: Path | None = None,
) -> Path:
    """Train a model on the shards of `sqllm corpus simulate` and write it to `out`.

    `bases` is a directory with the configuration and the base models; where it holds a trained model, training goes on
    from its weights unless `settings.fresh`. `tell(stage, figures, checkpoint)` is told how it goes; checkpoints lie in
    `checkpoints` (None: in `out`), and a run that was cut off goes on from them. Within a process group of
    `torch.distributed` every worker calls this, and the first one writes the model. UsageError where the corpus or the
    configuration does not do.
    """
    config = load_config(corpus, bases)
    checkpoints = checkpoints or out
    checkpoints.mkdir(parents=True, exist_ok=True)
    key = features.features_key(config, bases)
    features.prepare(config, bases, corpus, key)
    data = read(corpus, key)
    torch.manual_seed(1)
    model = store.create(config, bases, torch.bfloat16).to(device).train()
    made_with = {"clips": len(data["train"]), "features": key, "batch": settings.batch, "lr": settings.lr, "from": None}
    made_with["parts"] = settings.parts * loop.workers()[1]
    if not settings.fresh and (bases / TRAINED).is_file():
        store.load_trained(model, store.load_file(bases / TRAINED), grown=True)
        made_with["from"] = store.file_hash(bases / TRAINED)
    stages = [
        (listen, settings.listen_steps, 4 * settings.batch),
        (scores, settings.score_steps, settings.batch),
        (words, settings.word_steps, max(1, settings.batch // 4)),
    ]
    first = 0 if config.projector == "context" and settings.listen_steps else 1
    for stage, steps, batch in stages[first:]:
        name = stage.__name__.rpartition(".")[2]
        stage.train(
            model,
            data,
            checkpoints,
            made_with,
            steps,
            batch,
            lr=settings.lr,
            parts=settings.parts,
            tell=partial(tell, name),
        )
    return store.save(model, out, bases) if loop.workers()[0] == 0 else out
