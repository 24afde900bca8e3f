"""Then the words: the LoRA above `score_layers` learns to answer questions; what gives the scores is left as it is.

Several questions about one clip follow the same prefix as branches that do not see each other, so that the audio and
what is known of it are computed once. The tokens are those that `sqllm.model.answering` feeds and generates; only the
answer's tokens count in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sqllm import DIMENSIONS
from sqllm.audio.evidence import describe, measure
from sqllm.audio.io import to_int16
from sqllm.corpus.profiles import Profile, load_profiles
from sqllm.corpus.questions import draw
from sqllm.model import store
from sqllm.model.prompt import Prompt, known
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training.data import Clips
from sqllm.training.features import samples
from sqllm.training.loop import fit

JITTER = 0.2  # of the scores in front of the words: at inference they are the model's own
WITHHELD = 0.2  # share of clips without the measured facts


@dataclass
class Packed:
    """One clip's prefix with its questions and answers as branches."""

    ids: list[int]
    branch: list[int]  # of each token: 0 is the prefix
    position: list[int]
    answered: list[tuple[int, int]]  # (row that predicts, token that it should predict)

    @classmethod
    def pack(cls, prefix: list[int], dialogues: list[tuple[list[int], list[int]]]) -> Packed:
        ids, branch, position, answered = list(prefix), [0] * len(prefix), list(range(len(prefix))), []
        for number, (question, answer) in enumerate(dialogues, 1):
            start = len(ids) + len(question) - 1
            answered += [(start + k, token) for k, token in enumerate(answer)]
            tokens = question + answer[:-1]
            ids += tokens
            branch += [number] * len(tokens)
            position += range(len(prefix), len(prefix) + len(tokens))
        return cls(ids, branch, position, answered)


def prefix_ids(prompt: Prompt, context: str, audio_tokens: int, reference: bool) -> tuple[list[int], list[int]]:
    """Token ids with zeros where embeddings go, and the places where audio and reference begin."""
    ids, places = [], []
    for segment in prompt.audio(reference):
        if isinstance(segment, str):
            places.append(len(ids))
            segment = [0] * audio_tokens
        ids += segment
    return ids + prompt.context(context), places


def example(
    model: SpeechQualityLLM, clips: Clips, i: int, questions: int, reference: bool, rng, profile: Profile | None = None
) -> Packed:
    """Questions about clip i with what is known of it: scores, as the panel or a listener gives them, and facts."""
    facts = measure(to_int16(samples(clips.audio(i))))
    mean = profile.target(clips.mean[i], clips.std[i])[0] if profile else clips.mean[i]
    scores = np.clip(mean + rng.normal(0, JITTER, 5), 1, 5).round(1)
    scores = dict(zip(DIMENSIONS, scores.tolist(), strict=True))
    context = known(scores, "" if rng.random() < WITHHELD else describe(facts), profile.words if profile else "")
    prefix, _ = prefix_ids(model.prompt, context, model.config.audio_tokens, reference)
    dialogues = [draw(clips.chain(i), scores, facts, rng) for _ in range(questions)]
    return Packed.pack(prefix, [(model.prompt.question(d.question), model.prompt.answer(d.answer)) for d in dialogues])


def inputs(
    model: SpeechQualityLLM, packed: list[Packed], audio: Tensor, reference: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [B, S, D], additive mask [B, 1, S, S] and positions [B, S] of a batch of packed clips."""
    language, longest = model.language, max(len(p.ids) for p in packed)
    pad = [longest - len(p.ids) for p in packed]
    ids = torch.tensor([p.ids + [0] * n for p, n in zip(packed, pad, strict=True)])
    branch = torch.tensor([p.branch + [-1] * n for p, n in zip(packed, pad, strict=True)])
    positions = torch.tensor([p.position + [0] * n for p, n in zip(packed, pad, strict=True)])
    below = torch.ones(longest, longest, dtype=torch.bool).tril()
    allowed = below & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    dtype = language.base.model.norm.weight.dtype
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
    x = language.embed(ids.to(model.device)).clone()
    _, places = prefix_ids(model.prompt, "", model.config.audio_tokens, reference is not None)
    for place, signal in zip(places, (audio, reference), strict=False):
        x[:, place : place + model.config.audio_tokens] = model.projector(signal.to(model.device)).to(x.dtype)
    return x, mask.to(model.device), positions.to(model.device)


def loss(model: SpeechQualityLLM, packed: list[Packed], audio: Tensor, reference: Tensor | None) -> Tensor:
    """Cross-entropy per answer token of a batch of packed clips. What the scores pass through gets no gradient."""
    language, layers = model.language, model.language.score_layers or 0
    with torch.no_grad():
        x, mask, positions = inputs(model, packed, audio, reference)
        x = language.run(x, mask, positions, layers) if layers else x
    x = language.run(x, mask, positions, first=layers)
    clip = [b for b, p in enumerate(packed) for _ in p.answered]
    rows, tokens = zip(*[pair for p in packed for pair in p.answered], strict=True)
    logits = language.word_logits(x[clip, list(rows)])
    return torch.nn.functional.cross_entropy(logits.float(), torch.tensor(tokens, device=logits.device))


def train(
    model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: dict, steps: int, batch: int = 2,
    questions: int = 4, lr: float = 5e-4, double_ended: float = 0.25, listeners: float = 0.2,
) -> None:  # fmt: skip
    """Train in place, with checkpoints in `out`."""
    clips, profiles = data["train"], [p for p in load_profiles().values() if p.trained]

    def step(rng: np.random.Generator) -> Tensor:
        at = rng.integers(len(clips), size=batch)
        reference = clips.features(at, reference=True) if rng.random() < double_ended else None
        profile = profiles[rng.integers(len(profiles))] if rng.random() < listeners else None
        packed = [example(model, clips, i, questions, reference is not None, rng, profile) for i in at]
        return loss(model, packed, clips.features(at), reference)

    store.mark_trainable(model, "words")
    fit(model, step, out / "words.pt", steps, lr, seed=2, settings=settings)
    store.mark_trainable(model)
