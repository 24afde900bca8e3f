"""Training in one process, from corpora to a model directory.

1. `corpora`: rated recordings become shards, as simulated clips are from the beginning.
2. `features`: a frozen encoder hears every clip once; what the projector needs of it is kept beside the corpus.
3. `listen`: a projector with context, and an encoder that is trained, learn to rate a clip and its faults alone.
4. `scores`: these and the lower layers' LoRA learn the answer tree's distributions and the checklist of faults.
   `references`: what hears how a recording differs from its reference learns on. It changes no single-ended score.
   `words`: the upper layers' LoRA learns to answer questions. It cannot change a score.
   A model whose scores come from the last layer learns both at once instead (`joint`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from sqllm.corpus.shards import Shards
from sqllm.errors import UsageError
from sqllm.model import store
from sqllm.model.config import TRAINED, ModelConfig, base
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training import corpora, data, features, joint, listen, loop, references, scores, words
from sqllm.training.settings import Settings

Tell = Callable[[str, dict, Path | None], None]


def steps(config: ModelConfig, settings: Settings) -> dict[str, int]:
    """The stages of a model's training. UsageError where its configuration does not do."""
    if config.lora is None:
        raise UsageError("the configuration has no lora: without it the language model learns nothing")
    context = config.projector == "context"
    first = {"listen": settings.listen_steps} if context else {}
    if config.score_layers is None:
        return {name: count for name, count in (first | {"joint": settings.steps}).items() if count}
    apart = {"scores": settings.score_steps, "references": settings.pair_steps if context else 0}
    return {name: count for name, count in (first | apart | {"words": settings.word_steps}).items() if count}


def begun(config: ModelConfig, bases: Path | None, settings: Settings) -> Path | None:
    """The trained weights that training goes on from. UsageError where they hold an encoder and none is trained: it
    would be lost."""
    if bases is None or settings.fresh or not (bases / TRAINED).is_file():
        return None
    if config.encoder_training == "frozen" and store.holds_encoder(bases / TRAINED):
        raise UsageError(
            f"the encoder of {bases} was trained: give --encoder-training query or full to keep it, or --fresh"
        )
    return bases / TRAINED


def learn(
    shards: Sequence[Shards], config: ModelConfig, bases: Path | None, checkpoints: Path, settings: Settings,
    device: str = "cpu", tell: Tell = lambda stage, line, checkpoint: loop.tell(line, checkpoint),
    load: loop.Load = loop.in_order,
) -> SpeechQualityLLM:  # fmt: skip
    """A model trained on shards, whose features are prepared where the encoder is frozen.

    `tell(stage, figures, checkpoint)` is told how it goes; checkpoints lie in `checkpoints`, and a run that was cut off
    goes on from them. `load`: see `loop.fit`. Within a process group of `torch.distributed` every worker calls this.
    """
    stages = steps(config, settings)
    key = features.features_key(config, bases)
    clips = data.read(shards, key)
    first = begun(config, bases, settings)
    if first is None and not {"scores", "joint"} & set(stages):
        raise UsageError("score_steps is 0, but this base was never trained to score: give it some, or a trained base")
    faults = any(row.get("chain") is not None for row in clips["train"].rows)
    config = replace(config, checklist=config.checklist and (first is not None or faults))
    torch.manual_seed(1)
    model = store.create(config, bases, store.fast_dtype(device), device).to(device).train()
    if first:
        store.load_trained(model, store.load_file(first), grown=True)
    if key is None:
        model.encoder.float()  # what AdamW moves
    if settings.gradient_checkpointing:
        for module in (model.language.base, model.encoder.model):
            module.gradient_checkpointing_enable({"use_reentrant": False})
    made_with = replace(settings, parts=settings.parts * loop.workers()[1]).of_run(config.encoder_training)
    made_with |= {"clips": clips["train"].hash(), "features": key, "from": first and store.file_hash(first)}
    made_with["config"] = {k: v for k, v in asdict(config).items() if k not in ("encoder", "language_model")}
    for name in stages:
        stage = {"listen": listen, "scores": scores, "references": references, "words": words, "joint": joint}[name]
        stage.train(model, clips, checkpoints, settings, made_with=made_with, tell=partial(tell, name), load=load)
    return model


def train(
    corpus: str | Path | Sequence[str | Path], base_model: str | Path, out: Path, settings: Settings,
    device: str = "cpu", columns: Mapping[str, str] | None = None, only: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Train a model and write it to `out`, where its checkpoints lie too; figures go to stdout as lines of JSON.

    `corpus`: shards of `sqllm corpus simulate`, or rated recordings (`columns`, `only`: see `corpus.manifest.read`), or
    several of these. `base_model`: a preset's name or a directory with the configuration and the base models; where it
    holds a trained model, training goes on from its weights unless `settings.fresh`. UsageError where the corpus or
    the configuration does not do.
    """
    config, bases = base(base_model)
    steps(config, settings)
    begun(config, bases, settings)
    names = [str(c) for c in ([corpus] if isinstance(corpus, str | Path) else corpus)]
    places, todo = corpora.find(names, str(out), columns, only)
    for task in todo:
        corpora.make(*task)
    corpora.left_out(places)
    shards, key = [Shards.open(place) for place in places], features.features_key(config, bases)
    out.mkdir(parents=True, exist_ok=True)
    missing = [(each, name) for each in shards for name in features.missing(each, key)]
    encoder = features.load_encoder(config, bases, device) if missing else None
    for each, name in missing:
        features.prepare_shard(encoder, each, name, key)
    return store.save(learn(shards, config, bases, out, settings, device), out, bases)
