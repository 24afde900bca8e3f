"""Words: LoRA learns to answer questions. Above `score_layers` it leaves alone what gives the scores.

Several questions about one clip follow the same prefix as branches that do not see each other, so that the audio and
what is known of it are computed once. The tokens are those that `sqllm.model.answering` feeds and generates; only the
answer's tokens count in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sqllm import DIMENSIONS
from sqllm.corpus import paper_tasks, questions
from sqllm.corpus.profiles import Profile
from sqllm.corpus.questions import Clip, Dialogue
from sqllm.faults import phrase
from sqllm.model import store
from sqllm.model.branches import Branches, inputs, prefix_ids
from sqllm.model.prompt import both, known
from sqllm.model.speech_quality_llm import SpeechQualityLLM
from sqllm.training.data import Clips, Sound
from sqllm.training.loop import Loss, fit
from sqllm.training.scores import trained_profiles
from sqllm.training.settings import Settings

FIRST = 3.0  # weight of an answer's first token: Yes or No hangs on it
JITTER = 0.2  # of the scores in front of the words: at inference they are the model's own
LISTENERS = 0.2  # share of batches that are heard by one listener instead of the panel
BLIND = 0.5  # share of the paper's questions that are asked as it asks them, with nothing known but the audio


@dataclass
class Asked:
    """About one clip."""

    context: str  # what is known
    dialogues: list[Dialogue]


@dataclass
class Part:
    """Of a step: clips, and what is asked about each."""

    audio: Sound
    reference: Sound | None
    asked: list[Asked]


@dataclass
class Draw:
    clips: Clips
    batch: int
    checklist: bool  # whether the model names faults before it answers
    questions: int = 6  # about each clip
    compared: float = 0.15  # share of clips that are asked about beside another clip
    paper: float = 0.2  # share of clips that are asked the paper's questions, though their faults are known
    double_ended: float = 0.25

    def __call__(self, rng: np.random.Generator) -> Part:
        at, double = self.clips.draw(self.batch, rng, self.double_ended)
        reference = self.clips.sound(at, reference=True) if double else None
        return Part(self.clips.sound(at), reference, self.asked(at, double, rng))

    def asked(self, at: Sequence[int], double: bool, rng: np.random.Generator) -> list[Asked]:
        profiles = trained_profiles()
        profile = profiles[rng.integers(len(profiles))] if rng.random() < LISTENERS else None
        return [self._about(i, double, rng, profile) for i in at]

    def _about(self, i: int, double: bool, rng: np.random.Generator, profile: Profile | None) -> Asked:
        """Questions about clip i with what is known of it: facts, faults, scores as the panel or a listener gives."""
        chain = self.clips.chain(i)
        ask_paper = chain is None or rng.random() < self.paper
        blind = ask_paper and not profile and rng.random() < BLIND
        scores = self._scores(i, rng, profile, 0 if blind else JITTER)
        if not scores:  # a listener whose scores follow from ratings that are missing
            return self._about(i, double, rng, None)
        clip = None if chain is None else Clip(chain, scores, self.clips.facts(i), rng, False)
        context = "" if blind else self._known(i, scores, clip, rng, profile)
        if ask_paper:
            faults = clip and [phrase(name, clip.costs[name]) for name in clip.faults]
            drawn = [paper_tasks.draw(scores, faults, rng, double) for _ in range(self.questions)]
        elif rng.random() < self.compared and (other := self._other(rng, profile)):
            context = both(context, self._known(*other, rng, profile))
            drawn = [questions.compare(clip, other[2]) for _ in range(self.questions)]
        else:
            drawn = [questions.draw(chain, scores, self.clips.facts(i), rng) for _ in range(self.questions)]
        return Asked(context, drawn)

    def _scores(self, i: int, rng: np.random.Generator, profile: Profile | None, jitter: float) -> dict[str, float]:
        clips = self.clips
        mean = profile.target(clips.mean[i], clips.std[i])[0] if profile else clips.mean[i]
        told = np.clip(mean + rng.normal(0, jitter, 5), 1, 5).round(1) if jitter else mean
        return {d: float(s) for d, s in zip(DIMENSIONS, told, strict=True) if np.isfinite(s)}

    def _known(self, i: int, scores: dict, clip: Clip | None, rng, profile: Profile | None) -> str:
        heard = clip.heard if clip and self.checklist else ""
        return known(scores, self.clips.told(i, rng), heard, profile.words if profile else "")

    def _other(self, rng: np.random.Generator, profile: Profile | None) -> tuple[int, dict, Clip] | None:
        """Another clip, if its faults and scores are known."""
        [i], _ = self.clips.draw(1, rng, 0)
        chain, scores = self.clips.chain(i), self._scores(i, rng, profile, JITTER)
        if chain is None or not scores:
            return None
        return i, scores, Clip(chain, scores, self.clips.facts(i), rng, False)


def pack(model: SpeechQualityLLM, asked: Asked, reference: bool) -> Branches:
    """In the tokens that `answering.answer` would feed and should generate."""
    prefix, _ = prefix_ids(model.prompt, asked.context, model.config.audio_tokens, reference)
    return Branches.pack(
        prefix, [(model.prompt.question(d.question), model.prompt.answer(d.answer)) for d in asked.dialogues]
    )


def loss(model: SpeechQualityLLM, packed: list[Branches], audio: Tensor, reference: Tensor | None) -> Tensor:
    """Cross-entropy per answer token (the first counts `FIRST`) of a batch of packed clips.

    Where scores leave the language model early, what they pass through gets no gradient.
    """
    language, layers = model.language, model.language.score_layers or 0
    with torch.no_grad() if layers else nullcontext():
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


def train(model: SpeechQualityLLM, data: dict[str, Clips], out: Path, settings: Settings, **options) -> None:
    """Train in place, with checkpoints in `out`; `options` are those of `fit`."""

    def step(part: Part) -> Loss:
        packed = [pack(model, asked, part.reference is not None) for asked in part.asked]
        with torch.no_grad():
            audio, reference = part.audio.features(model), part.reference and part.reference.features(model)
        value = loss(model, packed, audio, reference)
        return Loss(value, len(packed), sum(len(p.ids) for p in packed))

    store.mark_trainable(model, "words")
    draw = Draw(data["train"], max(1, settings.batch // 4), model.config.checklist)
    fit(model, draw, step, out / "words.pt", settings.word_steps, settings, seed=2, **options)
    store.mark_trainable(model)
