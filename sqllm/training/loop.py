"""The loop of all training: AdamW in float32, products in bfloat16 where that is fast, and checkpoints.

Part k of step s draws from a generator seeded with (seed, s, k), and the parts of a step are divided among the workers
of `torch.distributed`, where there are any: a run that was cut off goes on as if it had not been, and two workers learn
what one worker learns that takes two parts in each step.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed, nn

from sqllm.errors import UsageError
from sqllm.model.store import autocast
from sqllm.training.settings import Settings

REPORTS = 8  # between two checkpoints
Load = Callable[[Callable, Iterable[tuple[int, int, int]]], Iterable]


class Loss(NamedTuple):
    """Of a part of a step: the value, and what it was computed from (tokens without padding)."""

    value: Tensor
    clips: int
    tokens: int


def tell(line: dict, checkpoint: Path | None) -> None:
    """What a run in one process does with its reports: a line of JSON."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def workers() -> tuple[int, int]:
    """This worker's rank and the number of workers."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def in_order(draw: Callable, numbers: Iterable[tuple[int, int, int]]) -> Iterator:
    """The parts of steps, each drawn when it is asked for."""
    return (draw(np.random.default_rng(number)) for number in numbers)


def fit(
    model: nn.Module, draw: Callable[[np.random.Generator], Any], loss: Callable[[Any], Loss],
    checkpoint: Path, steps: int, settings: Settings, seed: int, made_with: dict,
    validate: Callable[[], dict[str, float]] = dict, tell: Callable[[dict, Path | None], None] = tell,
    load: Load = in_order,
) -> None:  # fmt: skip
    """Minimise the mean of `loss(draw(generator))` over the parameters that require a gradient, in place.

    A step is `settings.parts` calls of `loss` in each worker, whose gradients are averaged. `draw` touches no model and
    can be pickled: `load(draw, numbers)` may call it anywhere, as long as the results come in the order of `numbers`.
    `tell(figures, checkpoint)` gets the figures of every `settings.report_every` steps, and with every checkpoint those
    of `validate` too, in all workers at once; the first worker writes the checkpoint. Goes on from `checkpoint` where
    it exists; UsageError where that was `made_with` other things. `model` has a `device`.
    """
    (rank, size), parts, device = workers(), settings.parts, model.device
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    adamw = torch.optim.AdamW(_groups(named, settings), weight_decay=settings.weight_decay, betas=(0.9, 0.98))
    warmup = min(settings.warmup, steps // 10 + 1)

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 0.02 + 0.49 * (1 + math.cos(math.pi * min(step / steps, 1))))

    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, factor)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        if state["made_with"] != made_with:
            raise UsageError(f"{checkpoint} was made with other settings ({state['made_with']}): give another --out")
        model.load_state_dict(state["model"], strict=False)
        adamw.load_state_dict(state["optimizer"])
        start = state["step"]
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, factor, last_epoch=start - 1)
    mine = range(rank * parts, (rank + 1) * parts)
    drawn = iter(load(draw, [(seed, step, part) for step in range(start, steps) for part in mine]))
    began = since = time.time()
    losses, clips, tokens = [], 0, 0
    for step in range(start, steps):
        for part in mine:
            torch.manual_seed((1000 * seed + step) * 1000 + part)  # of dropout
            with autocast(device):
                found = loss(next(drawn))
            (found.value / parts).backward()
            losses.append(found.value.item())
            clips, tokens = clips + found.clips, tokens + found.tokens
        if size > 1:
            _average_gradients(list(named.values()))
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        adamw.step()
        schedule.step()
        adamw.zero_grad(set_to_none=True)
        last = step + 1 == steps
        if (step + 1) % settings.report_every == 0 or last:
            mean = torch.tensor([np.mean(losses), clips, tokens], device=device)
            if size > 1:
                _average([mean])
            took = time.time() - since
            line = {"step": step + 1, "loss": float(mean[0]), "s": time.time() - began}
            line |= {"clips_per_s": size * float(mean[1]) / took, "tokens_per_s": size * float(mean[2]) / took}
            saved = None
            if (step + 1) % (REPORTS * settings.report_every) == 0 or last:
                line |= {k: float(v) for k, v in validate().items() if math.isfinite(v)}
                saved = checkpoint
                if rank == 0:
                    weights = {n: p.detach() for n, p in named.items()}
                    temporary = checkpoint.with_suffix(".tmp")
                    state = {"model": weights, "optimizer": adamw.state_dict(), "step": step + 1}
                    torch.save(state | {"made_with": made_with}, temporary)
                    os.replace(temporary, checkpoint)
            tell(line, saved)
            losses, clips, tokens, since = [], 0, 0, time.time()


def _groups(named: dict[str, nn.Parameter], settings: Settings) -> list[dict]:
    """Parameters by how fast they learn."""
    rates = {"lora": 1.0, "fresh": settings.fresh_lr, "encoder": settings.encoder_lr}

    def kind(name: str) -> str:
        return "lora" if ".lora_" in name else "encoder" if name.startswith("encoder.") else "fresh"

    groups = [
        {"params": [p for n, p in named.items() if kind(n) == each], "lr": settings.lr * rate}
        for each, rate in rates.items()
    ]
    return [group for group in groups if group["params"]]


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """What had no part in any worker's loss keeps no gradient: AdamW passes over it, as with one worker."""
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    _average([used])
    for p, share in zip(parameters, used.tolist(), strict=True):
        if share and p.grad is None:
            p.grad = torch.zeros_like(p)
    _average([p.grad for p in parameters if p.grad is not None])


def _average(tensors: list[Tensor]) -> None:
    """In place, over all workers; one message for all of them."""
    flat = torch.cat([t.flatten() for t in tensors])
    distributed.all_reduce(flat)
    flat /= workers()[1]
    for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(part.view_as(t))
