"""Which faults are heard: each is rated with one digit, from 5 (not heard) to 1, all in one pass of the score layers.

The measured facts stand in front. Words come after the list, as they come after the scores: an answer names what the
list names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from sqllm.faults import PHRASES, noun
from sqllm.model.branches import Branches, inputs, prefix_ids
from sqllm.model.prompt import measured
from sqllm.model.scoring import DIGITS, encode
from sqllm.model.speech_quality_llm import SpeechQualityLLM

CHECK = "Which faults are heard? 5 is none."


def lay_out(model: SpeechQualityLLM, facts: str, reference: bool) -> Branches:
    """The checklist of one clip; `facts` of `evidence.describe`."""
    prompt = model.prompt
    prefix, _ = prefix_ids(prompt, measured(facts), model.config.audio_tokens, reference)
    prefix += prompt.question(CHECK)
    return Branches.pack(prefix, [(line, []) for line in _lines(prompt.tokenizer)])


@cache
def _lines(tokenizer) -> list[list[int]]:
    """What each fault is asked with; half of the time of a layout when it is tokenised anew."""
    return [encode(tokenizer, f"{noun(name)}: ") for name in PHRASES]


def check(model: SpeechQualityLLM, facts: Sequence[str], audio: Tensor, reference: Tensor | None = None) -> Tensor:
    """Log probabilities of the digits 1-5 [B, faults, 5], in the order of `faults.PHRASES`, not renormalised.

    `audio`, `reference`: pooled features [B, ...]; `facts`: of each clip.
    """
    packed = [lay_out(model, text, reference is not None) for text in facts]
    x, mask, positions = inputs(model, packed, audio, reference)
    hidden = model.language.run(x, mask, positions, model.language.score_layers)
    rows = torch.tensor([p.asked for p in packed], device=hidden.device)
    logits = model.language.score_logits(hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[-1]))).float()
    digits = [encode(model.tokenizer, digit)[-1] for digit in DIGITS]
    return logits[..., digits] - logits.logsumexp(-1, keepdim=True)


def costs(log_BF5: Tensor) -> list[dict[str, float]]:
    """What each fault is expected to cost, for each clip."""
    ratings = log_BF5.softmax(-1) @ torch.arange(1.0, 6.0, device=log_BF5.device)
    return [dict(zip(PHRASES, (5 - row).tolist(), strict=True)) for row in ratings.cpu()]


def target(costs_BF: Tensor) -> Tensor:
    """[B, faults, 5]: the two digits next to a rating share it, so that its expectation is exact."""
    rating = (5 - costs_BF).clamp(1, 5)[..., None]
    return (1 - (rating - torch.arange(1.0, 6.0, device=costs_BF.device)).abs()).clamp(min=0)
