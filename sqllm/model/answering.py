"""Answers in words, greedily, token by token: the same tokens as in training, streamed as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from sqllm.model.prompt import QUESTIONS
from sqllm.model.scoring import encode
from sqllm.model.speech_quality_llm import SpeechQualityLLM

LONGEST = 120  # tokens of an answer
NUMBER = re.compile(r"(?:[1-4](?:\.\d)?|5(?:\.0)?)(?![\d.])")


def continue_greedily(model: SpeechQualityLLM, x_BSD: Tensor, tokens: int, scores: bool = False) -> Iterator[Tensor]:
    """The most probable next tokens [B], one after another; `scores`: read where the answer tree reads."""
    language = model.language
    layers = language.score_layers if scores else None
    logits = language.score_logits if scores else language.word_logits
    cache, at = DynamicCache(config=language.base.config), 0
    for _ in range(tokens):
        positions = torch.arange(at, at + x_BSD.shape[1], device=x_BSD.device)[None]
        at += x_BSD.shape[1]
        hidden = language.run(x_BSD, None, positions, layers, cache)
        ids = logits(hidden[:, -1]).argmax(-1)
        yield ids
        x_BSD = language.embed(ids)[:, None].to(x_BSD.dtype)


@torch.inference_mode()
def answer(
    model: SpeechQualityLLM, audio: Tensor, reference: Tensor | None, context: str, question: str
) -> Iterator[str]:
    """Words about one window, piece by piece.

    `audio`, `reference`: pooled features [1, ...]; `context`: what is `known`.
    """
    prompt = model.prompt
    segments = [*prompt.audio(reference is not None), prompt.context(context), prompt.question(question)]
    ids: list[int] = []
    said = ""
    for token in continue_greedily(model, model.embed(segments, audio, reference), LONGEST):
        ids.append(int(token))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
        text = model.tokenizer.decode(ids)
        if not text.endswith("\ufffd"):  # half of a character
            yield text[len(said) :]
            said = text


@torch.inference_mode()
def generate_scores(
    model: SpeechQualityLLM, audio: Tensor, reference: Tensor | None = None, listeners: Sequence[str] = ("",)
) -> Tensor:
    """The paper's way, for comparison: write each number and parse it. [B, listeners, 5], NaN where it is no number."""
    prefix = model.embed(model.prompt.rating(reference is not None), audio, reference)
    out = torch.full((len(audio), len(listeners), len(QUESTIONS)), torch.nan)
    for i, listener in enumerate(listeners):
        for j, words in enumerate(QUESTIONS.values()):
            ids = torch.tensor(encode(model.tokenizer, listener) + encode(model.tokenizer, words), device=model.device)
            x = torch.cat([prefix, model.language.embed(ids)[None].expand(len(audio), -1, -1).to(prefix.dtype)], dim=1)
            written = torch.stack(list(continue_greedily(model, x, 3, scores=True)), dim=1)
            for b, text in enumerate(model.tokenizer.batch_decode(written)):
                if found := NUMBER.match(text):
                    out[b, i, j] = float(found[0])
    return out
