"""Several questions behind one prefix, in one pass: branches that do not see each other.

Training and inference lay out their tokens here, so that what is trained is what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sqllm.model.prompt import Prompt
from sqllm.model.speech_quality_llm import SpeechQualityLLM


@dataclass
class Branches:
    """One clip's prefix, and questions with or without their answers."""

    ids: list[int]
    branch: list[int]  # of each token: 0 is the prefix
    position: list[int]
    asked: list[int]  # of each branch the last token of its question
    answered: list[tuple[int, int]]  # (row that predicts, token that it should predict)

    @classmethod
    def pack(cls, prefix: list[int], dialogues: Sequence[tuple[list[int], list[int]]]) -> Branches:
        ids, branch, position = list(prefix), [0] * len(prefix), list(range(len(prefix)))
        asked, answered = [], []
        for number, (question, answer) in enumerate(dialogues, 1):
            asked.append(len(ids) + len(question) - 1)
            answered += [(asked[-1] + k, token) for k, token in enumerate(answer)]
            tokens = question + answer[:-1]
            ids += tokens
            branch += [number] * len(tokens)
            position += range(len(prefix), len(prefix) + len(tokens))
        return cls(ids, branch, position, asked, answered)


def prefix_ids(prompt: Prompt, context: str, audio_tokens: int, reference: bool) -> tuple[list[int], list[int]]:
    """Token ids with zeros where embeddings go, and the places where audio and reference begin."""
    ids, places = [], []
    for segment in prompt.audio(reference):
        if isinstance(segment, str):
            places.append(len(ids))
            segment = [0] * audio_tokens
        ids += segment
    return ids + prompt.context(context), places


def inputs(
    model: SpeechQualityLLM, packed: Sequence[Branches], audio: Tensor, reference: Tensor | None
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
    for place, tokens in zip(places, model.projector(audio, reference), strict=True):
        x[:, place : place + model.config.audio_tokens] = tokens.to(x.dtype)
    return x, mask.to(model.device), positions.to(model.device)
