"""The loop that scores and words share: AdamW in float32 over what is trained, bfloat16 in between, and checkpoints.

Part k of step s draws from a generator seeded with (seed, s, k), and the parts of a step are divided among the workers
of `torch.distributed`, where there are any: a run that was cut off goes on as if it had not been, and two workers learn
what one worker learns that takes two parts in each step.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn

from sqllm.errors import UsageError

EVERY = 8  # reports between two checkpoints


def tell(line: dict, checkpoint: Path | None) -> None:
    """What a run in one process does with its reports: a line of JSON."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def workers() -> tuple[int, int]:
    """This worker's rank and the number of workers."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def fit(
    model: nn.Module, loss: Callable[[np.random.Generator], Tensor], checkpoint: Path, steps: int, lr: float,
    seed: int, settings: dict, every: int = 25, validate: Callable[[], dict[str, float]] = dict, parts: int = 1,
    tell: Callable[[dict, Path | None], None] = tell,
) -> None:  # fmt: skip
    """Minimise the mean of `loss(generator)` over the parameters that require a gradient, in place.

    A step is `parts` calls of `loss` in each worker, whose gradients are averaged. `tell(figures, checkpoint)` gets
    the figures of every `every` steps, and with every checkpoint those of `validate` too, in all workers at once; the
    first worker writes the checkpoint. Goes on from `checkpoint` where it exists; UsageError where that was made with
    other `settings`. LoRA learns with `lr`, what starts from nothing (projector, norms) three times as fast.
    """
    rank, size = workers()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    groups = [{"params": [p for n, p in named.items() if (".lora_" in n) == lora], "lr": lr * (1 if lora else 3)}
              for lora in (True, False)]  # fmt: skip
    adamw = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.01, betas=(0.9, 0.98))
    warmup = min(100, steps // 10 + 1)

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 0.02 + 0.49 * (1 + math.cos(math.pi * min(step / steps, 1))))

    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, factor)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=next(iter(named.values())).device)
        if state["settings"] != settings:
            raise UsageError(f"{checkpoint} was made with other settings ({state['settings']}): give another --out")
        model.load_state_dict(state["model"], strict=False)
        adamw.load_state_dict(state["optimizer"])
        start = state["step"]
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, factor, last_epoch=start - 1)
    began, losses = time.time(), []
    for step in range(start, steps):
        torch.manual_seed(1000 * seed + step)  # of dropout
        for part in range(rank * parts, (rank + 1) * parts):
            with torch.autocast(next(iter(named.values())).device.type, torch.bfloat16):
                value = loss(np.random.default_rng([seed, step, part]))
            (value / parts).backward()
            losses.append(value.item())
        if size > 1:
            _average([p.grad if p.grad is not None else torch.zeros_like(p) for p in named.values()])
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        adamw.step()
        schedule.step()
        adamw.zero_grad(set_to_none=True)
        last = step + 1 == steps
        if (step + 1) % every == 0 or last:
            mean = torch.tensor([np.mean(losses)], device=next(iter(named.values())).device)
            if size > 1:
                _average([mean])
            line = {"step": step + 1, "loss": float(mean), "s": time.time() - began}
            losses, saved = [], None
            if (step + 1) % (EVERY * every) == 0 or last:
                line |= {k: float(v) for k, v in validate().items()}
                saved = checkpoint
                if rank == 0:
                    weights = {n: p.detach() for n, p in named.items()}
                    temporary = checkpoint.with_suffix(".tmp")
                    state = {"model": weights, "optimizer": adamw.state_dict(), "step": step + 1, "settings": settings}
                    torch.save(state, temporary)
                    os.replace(temporary, checkpoint)
            tell(line, saved)


def _average(tensors: list[Tensor]) -> None:
    """In place, over all workers; one message for all of them."""
    flat = torch.cat([t.flatten() for t in tensors])
    distributed.all_reduce(flat)
    flat /= workers()[1]
    for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(part.view_as(t))
