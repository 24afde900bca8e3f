"""Then the words: the LoRA above `score_layers` learns to answer questions; what gives the scores is left as it is.

Several questions about one clip follow the same prefix as branches that do not see each other, so that the audio and
what is known of it are computed once. The tokens are those that `sqllm.model.answering` feeds and generates; only the
answer's tokens count in the loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sqllm import DIMENSIONS
from sqllm.corpus.profiles import Profile, load_profiles
from sqllm.corpus.questions import Clip, draw
from sqllm.model import store
from sqllm.model.branches import Branches, inputs, prefix_ids
from sqllm.model.prompt import known
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training.data import Clips
from sqllm.training.loop import fit

FIRST = 3.0  # weight of an answer's first token: Yes or No hangs on it
JITTER = 0.2  # of the scores in front of the words: at inference they are the model's own


def example(
    model: SpeechQualityLLM, clips: Clips, i: int, questions: int, reference: bool, rng, profile: Profile | None = None
) -> Branches:
    """Questions about clip i with what is known of it: facts, faults, and scores as the panel or a listener gives."""
    facts, chain = clips.facts(i), clips.chain(i)
    mean = profile.target(clips.mean[i], clips.std[i])[0] if profile else clips.mean[i]
    scores = np.clip(mean + rng.normal(0, JITTER, 5), 1, 5).round(1)
    scores = dict(zip(DIMENSIONS, scores.tolist(), strict=True))
    heard = Clip(chain, scores, facts, rng, False).heard
    context = known(scores, clips.told(i, rng), heard, profile.words if profile else "")
    prefix, _ = prefix_ids(model.prompt, context, model.config.audio_tokens, reference)
    dialogues = [draw(chain, scores, facts, rng) for _ in range(questions)]
    return Branches.pack(
        prefix, [(model.prompt.question(d.question), model.prompt.answer(d.answer)) for d in dialogues]
    )


def loss(model: SpeechQualityLLM, packed: list[Branches], audio: Tensor, reference: Tensor | None) -> Tensor:
    """Cross-entropy per answer token (the first counts `FIRST`) of a batch of packed clips.

    What the scores pass through gets no gradient.
    """
    language, layers = model.language, model.language.score_layers or 0
    with torch.no_grad():
        x, mask, positions = inputs(model, packed, audio, reference)
        x = language.run(x, mask, positions, layers) if layers else x
    x = language.run(x, mask, positions, first=layers)
    clip = [b for b, p in enumerate(packed) for _ in p.answered]
    rows, tokens = zip(*[pair for p in packed for pair in p.answered], strict=True)
    logits = language.word_logits(x[clip, list(rows)])
    each = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(tokens).to(logits.device), reduction="none")
    starts = [row in p.asked for p in packed for row, _ in p.answered]
    weights = torch.where(torch.tensor(starts), FIRST, 1.0).to(each.device)
    return (each * weights).sum() / weights.sum()


def train(
    model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: dict, steps: int, batch: int = 2,
    questions: int = 4, lr: float = 5e-4, double_ended: float = 0.25, listeners: float = 0.2, **options,
) -> None:  # fmt: skip
    """Train in place, with checkpoints in `out`; `options` are those of `fit`."""
    clips, profiles = data["train"], [p for p in load_profiles().values() if p.trained]

    def step(rng: np.random.Generator) -> Tensor:
        at = rng.integers(len(clips), size=batch)
        reference = clips.features(at, reference=True) if rng.random() < double_ended else None
        profile = profiles[rng.integers(len(profiles))] if rng.random() < listeners else None
        packed = [example(model, clips, i, questions, reference is not None, rng, profile) for i in at]
        return loss(model, packed, clips.features(at), reference)

    store.mark_trainable(model, "words")
    fit(model, step, out / "words.pt", steps, lr, seed=2, settings=settings, **options)
    store.mark_trainable(model)
