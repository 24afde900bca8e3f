"""Encoder layers, pooled to tokens -> audio tokens in the embedding space of the language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 128


class Context(nn.Module):
    """[B, tokens, width] -> the same shape: what a token's neighbours and the whole window add to it. At first nothing.

    The window speaks through mean and spread over its tokens: what a language model would have to learn to sum up.
    """

    def __init__(self, width: int):
        super().__init__()
        self.inside = nn.Linear(width, HIDDEN)
        self.near = nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1)
        self.whole = nn.Linear(2 * HIDDEN, HIDDEN)
        self.outside = nn.Linear(2 * HIDDEN, width)
        nn.init.zeros_(self.outside.weight)
        nn.init.zeros_(self.outside.bias)

    def forward(self, x_BND: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        x = gelu(self.inside(x_BND))
        x = x + gelu(self.near(x.transpose(1, 2)).transpose(1, 2))
        spread = (x.float().var(1, correction=0) + 1e-4).sqrt().to(x.dtype)
        whole = gelu(self.whole(torch.cat([x.mean(1), spread], dim=-1)))
        return self.outside(torch.cat([x, whole[:, None].expand(-1, x.shape[1], -1)], dim=-1))


class Projector(nn.Module):
    """[B, layers, tokens, width] -> [B, tokens, lm_width]: a learned weighting of the layers, LayerNorm, Linear.

    With `context`, a token also hears its window before the Linear; and a token of the reference hears how the
    recording differs from it.
    """

    def __init__(self, depth: int, width: int, lm_width: int, context: bool = False):
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(depth)) if depth > 1 else None
        self.norm = nn.LayerNorm(width)
        self.context = Context(width) if context else None
        self.difference = Context(width) if context else None
        self.linear = nn.Linear(width, lm_width)

    def forward(self, audio: Tensor, reference: Tensor | None = None) -> list[Tensor]:
        """The tokens of the recording and, where it is given, of its reference."""
        signals = [self._weighted(x.to(self.linear.weight)) for x in (audio, reference) if x is not None]
        tokens = list(signals)
        if self.context is not None:
            tokens[0] = signals[0] + self.context(signals[0])
            if reference is not None:
                tokens[1] = signals[1] + self.difference(signals[1] - signals[0])
        return [self.linear(x) for x in tokens]

    def _weighted(self, x_BLND: Tensor) -> Tensor:
        if self.layer_logits is None:
            return self.norm(x_BLND[:, 0])
        return self.norm(torch.einsum("l,blnd->bnd", self.layer_logits.softmax(0).to(x_BLND.dtype), x_BLND))
