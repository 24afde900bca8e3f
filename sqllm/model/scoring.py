"""Scores without generating text: the answer tree.

An answer about one dimension is one of 41 strings, "1.0" ... "5.0", with
P(d.k) = P(d | question) * P(. | d) * P(k | d.). All of it is read from ONE forward pass. The tree's tokens follow the
shared prefix: for each listener his words, under them the words of each question, under each question the five branches
"d.". The attention mask lets a token see the prefix, its own ancestors and itself; its position id is its depth. So
each branch gives what plain causal attention would give it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sqllm.errors import UsageError

LEAVES = tuple(round(1 + i / 10, 1) for i in range(41))
DIGITS = "12345"


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _single(tokenizer, text: str, stem: str) -> int:
    """The one token that `text` is when it follows `stem`."""
    before, after = encode(tokenizer, stem), encode(tokenizer, stem + text)
    if after[: len(before)] != before or len(after) != len(before) + 1:
        raise UsageError(
            f"this tokenizer does not write {text!r} after {stem!r} as one token of its own; the answer tree needs "
            "digits and the point as single tokens (SmolLM2, Llama 3 and most Llama-family tokenizers have them)"
        )
    return after[-1]


@dataclass
class AnswerTree:
    """The token tree of `listeners` x `questions`; tensors are on the CPU and small."""

    tokens_T: Tensor  # int64, in the order in which they follow the prefix
    depths_T: Tensor  # position of each token after the prefix, from 0
    visible_TT: Tensor  # bool: row may attend to column
    question_rows_LQ: Tensor  # the token before the first digit
    digit_rows_LQ5: Tensor
    point_rows_LQ5: Tensor
    digit_ids_10: Tensor  # "0" ... "9"
    point_id: int
    _masks: dict = field(default_factory=dict, repr=False)

    @classmethod
    def build(cls, tokenizer, questions: Sequence[str], listeners: Sequence[str] = ("",)) -> AnswerTree:
        """The tree of these questions for each of these listeners.

        `questions` are the words in front of an answer and end in a space ("mos: "); `listeners` stand before them.
        """
        stem = questions[0]
        digits = [_single(tokenizer, str(i), stem) for i in range(10)]
        point = _single(tokenizer, ".", stem + "3")
        for i in range(10):
            if _single(tokenizer, str(i), stem + "3.") != digits[i]:
                raise UsageError("this tokenizer writes a digit after a point in another way than one after a space")
        tokens, parents = [], []

        def add(ids: Sequence[int], parent: int) -> int:
            for token in ids:
                tokens.append(token)
                parents.append(parent)
                parent = len(tokens) - 1
            return parent

        asked, first, pointed = [], [], []
        for listener in listeners:
            above = add(encode(tokenizer, listener), -1)
            for question in questions:
                node = add(encode(tokenizer, question), above)
                asked.append(node)
                for digit in DIGITS:
                    first.append(add([digits[int(digit)]], node))
                    pointed.append(add([point], first[-1]))
        visible = torch.eye(len(tokens), dtype=torch.bool)
        depths = []
        for i, parent in enumerate(parents):
            depths.append(0 if parent < 0 else depths[parent] + 1)
            if parent >= 0:
                visible[i] |= visible[parent]
        shape = (len(listeners), len(questions))
        return cls(
            torch.tensor(tokens), torch.tensor(depths), visible, torch.tensor(asked).view(shape),
            torch.tensor(first).view(*shape, 5), torch.tensor(pointed).view(*shape, 5), torch.tensor(digits), point,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.tokens_T)

    @property
    def rows(self) -> Tensor:
        """The rows whose next-token distribution is read, in the order `leaves` expects them."""
        return torch.cat(
            [self.question_rows_LQ.flatten(), self.digit_rows_LQ5.flatten(), self.point_rows_LQ5.flatten()]
        )

    def mask(self, prefix: int, dtype: torch.dtype, device=None) -> tuple[Tensor, Tensor]:
        """Additive float mask [1, 1, S, S] and position ids [1, S] of prefix + tree, kept where they were made: a GPU
        that waits for them has nothing to do.

        Additive on purpose: eager attention adds whatever it is given, and a boolean mask there is silently wrong."""
        key = prefix, dtype, str(device), torch.is_inference_mode_enabled()  # of whose tensors no gradient may pass
        if key not in self._masks:
            size = prefix + len(self)
            allowed = torch.ones(size, size, dtype=torch.bool).tril()
            allowed[prefix:, prefix:] = self.visible_TT
            mask = torch.zeros(size, size, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
            positions = torch.cat([torch.arange(prefix), prefix + self.depths_T])
            self._masks[key] = mask[None, None].to(device), positions[None].to(device)
        return self._masks[key]

    def leaves(self, logits_BRV: Tensor) -> Tensor:
        """Log probabilities of the leaves, [B, listeners, questions, 41], from the logits at `rows`. Not renormalised:
        what their sum lacks to 1 is the probability of saying something else."""
        ids = torch.cat([self.digit_ids_10, torch.tensor([self.point_id])]).to(logits_BRV.device)
        log = logits_BRV[..., ids].float() - logits_BRV.float().logsumexp(-1, keepdim=True)
        n, shape = self.question_rows_LQ.numel(), self.question_rows_LQ.shape
        first_BQ5 = log[:, :n, 1:6]
        point_BQ5 = log[:, n : 6 * n, 10].unflatten(1, (n, 5))
        second_BQ5K = log[:, 6 * n :, :10].unflatten(1, (n, 5))
        joint = (first_BQ5 + point_BQ5)[..., None] + second_BQ5K
        return joint.flatten(2)[..., :41].unflatten(1, shape)


def moments(log_BLQ41: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and mass [B, L, Q] of leaf log probabilities, renormalised over the leaves."""
    mass = log_BLQ41.exp().sum(-1)
    p = log_BLQ41.softmax(-1)
    values = torch.tensor(LEAVES, device=p.device)
    mean = (p * values).sum(-1)
    std = ((p * (values - mean[..., None]) ** 2).sum(-1)).clamp(min=0).sqrt()
    return mean, std, mass


def soft_target(mean: Tensor, std: Tensor) -> Tensor:
    """[..., 41] a normal distribution over the leaves, cut to 1-5 and tilted so that its mean is `mean` again."""
    std = std.clamp(min=0.08)[..., None]
    offset = torch.tensor(LEAVES, device=mean.device) - mean.clamp(1.0, 5.0)[..., None]
    tilt = torch.zeros_like(std)
    for _ in range(8):  # the cut moves the mean near the ends of the scale; a few Newton steps bring it back
        p = (tilt * offset - 0.5 * (offset / std) ** 2).softmax(-1)
        error = (p * offset).sum(-1, keepdim=True)
        variance = (p * (offset - error) ** 2).sum(-1, keepdim=True)
        tilt = (tilt - error / variance.clamp(min=1e-3)).clamp(-100.0, 100.0)
    return (tilt * offset - 0.5 * (offset / std) ** 2).softmax(-1)
