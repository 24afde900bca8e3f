"""The figures of a training as lines of `training.jsonl`, and as curves."""

from __future__ import annotations

import json
from pathlib import Path

from sqllm import DIMENSIONS

FILE = "training.jsonl"


def add(out: Path, stage: str, line: dict) -> None:
    with open(out / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"stage": stage, **line}) + "\n")


def read(out: Path) -> list[dict]:
    """The lines, in the order of stages and steps; none where there is no file yet. One not written to its end, by a
    run that was killed, is left out."""
    if not (out / FILE).is_file():
        return []
    text = (out / FILE).read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        (out / FILE).write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def figure(lines: list[dict]):
    """A matplotlib Figure: loss of each stage, and over the checkpoints r and mean error of each dimension."""
    from matplotlib.figure import Figure

    out = Figure(figsize=(11, 3.6), layout="constrained")
    loss, r, mae = out.subplots(1, 3)
    for stage in dict.fromkeys(line["stage"] for line in lines):
        own = [line for line in lines if line["stage"] == stage]
        loss.plot([line["step"] for line in own], [line["loss"] for line in own], label=stage)
    for axes, name in ((r, "r"), (mae, "mae")):
        for d in DIMENSIONS:
            own = [line for line in lines if f"{name}_{d}" in line]
            if own:
                axes.plot([line["step"] for line in own], [line[f"{name}_{d}"] for line in own], ".-", label=d)
    for axes, title in ((loss, "loss"), (r, "validation: Pearson r"), (mae, "validation: mean absolute error")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    return out
