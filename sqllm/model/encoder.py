"""Audio windows -> frames: a Whisper or AST encoder of transformers, of any size.

`AudioEncoder.forward` gives the hidden states of every layer, each normalised per frame, pooled to audio tokens: the
input of the projector. Pooling here and weighting the layers later commute, so that training can keep pooled features.

Short clips: a clip of Whisper is cut to its own length, rounded up to a second (`BUCKET_S`; the position table is
sliced), and the rest of that second is excluded from attention and from pooling. AST has a fixed number of patches, as
it was trained: those past the end of the clip are excluded at pooling only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import ASTConfig, ASTModel, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sqllm.model.features import RATE, ASTLogMel, WhisperLogMel

BUCKET_S = 1.0
BUCKET = int(BUCKET_S * RATE)


def bucket_length(samples: int) -> int:
    """The padded length of a clip: whole seconds. Clips of one bucket can share a batch without touching each other."""
    return max(1, math.ceil(samples / BUCKET)) * BUCKET


def pooling(lengths_B: Tensor, frames: int, tokens: int) -> Tensor:
    """[B, tokens, frames] rows of averages: adaptive average pooling over the first `lengths` frames of each clip."""
    i = torch.arange(tokens, device=lengths_B.device)
    n = lengths_B[:, None]
    start, end = (i * n) // tokens, -((-(i + 1) * n) // tokens)
    t = torch.arange(frames, device=lengths_B.device)
    inside = (t >= start[..., None]) & (t < end[..., None])
    return inside / (end - start)[..., None]


class AudioEncoder(nn.Module):
    """`forward([B, samples] float32, lengths [B]) -> [B, layers, tokens, width]`.

    layers: "all" (the embeddings and each layer, normalised without parameters) or "last" (the encoder's own output).
    """

    def __init__(self, config: WhisperConfig | ASTConfig, layers: str = "all", tokens: int = 128):
        super().__init__()
        self.config, self.layers, self.tokens = config, layers, tokens
        if isinstance(config, ASTConfig):
            self.model, self.width = ASTModel(config), config.hidden_size
            self.log_mel = ASTLogMel(config.num_mel_bins, config.max_length)
            depth = config.num_hidden_layers
        else:
            self.model, self.width = WhisperEncoder(config), config.d_model
            self.log_mel = WhisperLogMel(config.num_mel_bins)
            depth = config.encoder_layers
        self.depth = depth + 1 if layers == "all" else 1

    @property
    def query_modules(self) -> list[nn.Module]:
        """The attention query projections: what the paper trains of AST."""
        return [m for name, m in self.model.named_modules() if name.endswith("q_proj")]

    def forward(self, x_BS: Tensor, lengths_B: Tensor) -> Tensor:
        if isinstance(self.config, ASTConfig):
            states, valid = self._ast(x_BS, lengths_B)
        else:
            states, valid = self._whisper(x_BS, lengths_B)
        every = self.layers == "all"
        states = [nn.functional.layer_norm(h, h.shape[-1:]) for h in states] if every else states[-1:]
        pool_BNT = pooling(valid, states[0].shape[1], self.tokens).to(states[0].dtype)
        return torch.stack([pool_BNT @ h for h in states], dim=1)

    def _whisper(self, x_BS: Tensor, lengths_B: Tensor):
        m = self.model
        h = self.log_mel(x_BS).to(m.conv1.weight.dtype)
        h = nn.functional.gelu(m.conv1(h))
        h = nn.functional.gelu(m.conv2(h)).transpose(1, 2)
        h = h + m.embed_positions.weight[: h.shape[1]]
        valid_B = (lengths_B // 320).clamp(1, h.shape[1])
        mask = None
        if (valid_B < h.shape[1]).any():
            past_BT = torch.arange(h.shape[1], device=h.device) >= valid_B[:, None]
            mask = torch.zeros_like(past_BT, dtype=h.dtype).masked_fill(past_BT, torch.finfo(h.dtype).min)[
                :, None, None
            ]
        states = [h]
        for layer in m.layers:
            states.append(layer(states[-1], mask))
        if self.layers == "last":
            states.append(m.layer_norm(states[-1]))
        return states, valid_B

    def _ast(self, x_BS: Tensor, lengths_B: Tensor):
        m = self.model
        patches_f, patches_t = m.embeddings.get_shape(self.config)
        states = [m.embeddings(self.log_mel(x_BS).to(m.embeddings.cls_token.dtype))]
        for layer in m.layers:
            states.append(layer(states[-1]))
        if self.layers == "last":
            states.append(m.layernorm(states[-1]))
        # patches stand frequency by frequency; in the order of time, pooling gives tokens in the order of time
        states = [h[:, 2:].unflatten(1, (patches_f, patches_t)).transpose(1, 2).flatten(1, 2) for h in states]
        frames = (lengths_B - 400) // 160 + 1
        in_time = ((frames - self.config.patch_size) // self.config.time_stride + 1).clamp(1, patches_t)
        return states, in_time * patches_f
