"""The loop that scores and words share: AdamW in float32 over what is trained, bfloat16 in between, and checkpoints.

Step k draws from a generator seeded with (seed, k), so that a run that was cut off goes on as if it had not been.
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
from torch import Tensor, nn

from sqllm.errors import UsageError

EVERY = 8  # reports between two checkpoints


def fit(
    model: nn.Module, loss: Callable[[np.random.Generator], Tensor], checkpoint: Path, steps: int, lr: float,
    seed: int, settings: dict, report: int = 25, validate: Callable[[], dict[str, float]] = dict,
) -> None:  # fmt: skip
    """Minimise `loss(generator)` over the parameters that require a gradient, in place.

    Goes on from `checkpoint` where it exists; UsageError where that was made with other `settings`. Prints a line of
    JSON every `report` steps; with every checkpoint it has the figures of `validate` too. LoRA learns with `lr`, what
    starts from nothing (projector, norms) three times as fast.
    """
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
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != settings:
            raise UsageError(f"{checkpoint} was made with other settings ({state['settings']}): give another --out")
        model.load_state_dict(state["model"], strict=False)
        adamw.load_state_dict(state["optimizer"])
        start = state["step"]
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, factor, last_epoch=start - 1)
    began, losses = time.time(), []
    for step in range(start, steps):
        torch.manual_seed(1000 * seed + step)  # of dropout
        with torch.autocast(next(iter(named.values())).device.type, torch.bfloat16):
            value = loss(np.random.default_rng([seed, step]))
        value.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        adamw.step()
        schedule.step()
        adamw.zero_grad(set_to_none=True)
        losses.append(value.item())
        last = step + 1 == steps
        if (step + 1) % report == 0 or last:
            line = {"step": step + 1, "loss": np.mean(losses), "s": time.time() - began}
            losses = []
            if (step + 1) % (EVERY * report) == 0 or last:
                line |= validate()
                weights = {n: p.detach() for n, p in named.items()}
                temporary = checkpoint.with_suffix(".tmp")
                state = {"model": weights, "optimizer": adamw.state_dict(), "step": step + 1, "settings": settings}
                torch.save(state, temporary)
                os.replace(temporary, checkpoint)
            print(json.dumps({k: round(float(v), 4) for k, v in line.items()}), flush=True)
