"""Encoder layers, pooled to tokens -> audio tokens in the embedding space of the language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Projector(nn.Module):
    """[B, layers, tokens, width] -> [B, tokens, lm_width]: a learned weighting of the layers, LayerNorm, Linear."""

    def __init__(self, depth: int, width: int, lm_width: int):
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(depth)) if depth > 1 else None
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, lm_width)

    def forward(self, x_BLND: Tensor) -> Tensor:
        if self.layer_logits is None:
            x_BND = x_BLND[:, 0]
        else:
            x_BND = torch.einsum("l,blnd->bnd", self.layer_logits.softmax(0).to(x_BLND.dtype), x_BLND)
        return self.linear(self.norm(x_BND))
