"""SpeechQualityLLM (arXiv 2512.08238): audio encoder, projector and language model in one module.

Everything here takes *pooled features* [B, layers, tokens, width] of `AudioEncoder`, or waveforms through `features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from sqllm.model.config import ModelConfig
from sqllm.model.encoder import AudioEncoder
from sqllm.model.language import LanguageModel
from sqllm.model.projector import Projector
from sqllm.model.prompt import AUDIO, QUESTIONS, Prompt
from sqllm.model.scoring import AnswerTree


class SpeechQualityLLM(nn.Module):
    def __init__(self, config: ModelConfig, encoder: AudioEncoder, language: LanguageModel, tokenizer):
        super().__init__()
        self.config, self.encoder, self.language = config, encoder, language
        self.projector = Projector(encoder.depth, encoder.width, language.width, config.projector == "context")
        self.tokenizer, self.prompt = tokenizer, Prompt(tokenizer)
        self.tree = lru_cache(maxsize=16)(self._tree)

    def _tree(self, listeners: tuple[str, ...]) -> AnswerTree:
        return AnswerTree.build(self.tokenizer, list(QUESTIONS.values()), listeners)

    @property
    def device(self) -> torch.device:
        return self.projector.linear.weight.device

    def features(self, x_BS: Tensor, lengths_B: Tensor) -> Tensor:
        """Waveforms, float32 at 16 kHz and padded to one bucket's length -> pooled features."""
        return self.encoder(x_BS.to(self.device), lengths_B.to(self.device))

    def embed(self, segments: Sequence[list[int] | str], audio: Tensor, reference: Tensor | None = None) -> Tensor:
        """[B, S, D]: the segments of a prompt with audio tokens in their places."""
        tokens, parts = self.projector(audio, reference), []
        for segment in segments:
            if isinstance(segment, str):
                x = tokens[segment != AUDIO]
            else:
                ids = torch.tensor(segment, device=self.device)
                x = self.language.embed(ids)[None].expand(len(audio), -1, -1)
            parts.append(x)
        dtype = self.language.base.model.norm.weight.dtype
        return torch.cat([p.to(dtype) for p in parts], dim=1)

    def score(self, audio: Tensor, reference: Tensor | None = None, listeners: Sequence[str] = ("",)) -> Tensor:
        """Log probabilities of the 41 answers: pooled features [B, ...] -> [B, listeners, 5, 41], in one pass."""
        tree = self.tree(tuple(listeners))
        segments = self.prompt.rating(reference is not None)
        prefix = self.embed(segments, audio, reference)
        ids = tree.tokens_T.to(self.device)
        x = torch.cat([prefix, self.language.embed(ids)[None].expand(len(audio), -1, -1).to(prefix.dtype)], dim=1)
        mask, positions = tree.mask(prefix.shape[1], x.dtype, self.device)
        hidden = self.language.run(x, mask, positions, self.language.score_layers)
        rows = tree.rows.to(self.device) + prefix.shape[1]
        return tree.leaves(self.language.score_logits(hidden[:, rows]))
