"""Listeners: whether scores move as a profile says, also for profiles that training has never seen; and whether the
spread of the panel is that of people.

What is asked for is the profile's own rule (`Profile.target`) on what the model says for the panel, so that an error of
the panel's score is no error of the listener.
"""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np

from sqllm import DIMENSIONS
from sqllm.corpus.questions import costs
from sqllm.evaluation import simulated
from sqllm.evaluation.metrics import FIGURES, estimate
from sqllm.faults import audible

MOVES = 0.2  # points: a shift from here on has a direction
LEAST = 3  # clips of a fault
BINS = (1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 5.01)  # of mos


def listeners(predictor, corpus: Path, clips: int, conditions: Path | None = None) -> dict:
    """Shifts of all profiles on `clips` simulated clips; the panel's spread beside that of human-rated conditions."""
    found = simulated.read(corpus, clips)
    profiles = list(predictor.profiles.values())
    audio = simulated.hear(predictor, [clip.window for clip in found])
    mean, std = simulated.rate(predictor, audio, None, ["", *(p.words for p in profiles)])
    panel = mean[:, 0]
    speakers = [clip.speaker for clip in found]
    told = {p.name: mean[:, i + 1] - panel for i, p in enumerate(profiles)}
    asked = {p.name: p.target(panel, std[:, 0])[0] - panel for p in profiles}
    names = sorted(told, key=lambda name: predictor.profiles[name].trained)  # those never trained on first
    result = {
        "clips": len(found),
        "shift of each dimension": [
            row for name in names for row in _dimensions(predictor.profiles[name], told[name], asked[name], speakers)
        ],
        "shift by worst fault, profiles never trained on": [
            row
            for name in names
            if not predictor.profiles[name].trained
            for row in _faults(found, name, told[name], asked[name])
        ],
    }
    if conditions:
        result["spread of listeners"] = _spreads(conditions, panel[:, 0], std[:, 0, 0], mean[:, :, 0])
    return result


def _dimensions(profile, told: np.ndarray, asked: np.ndarray, speakers) -> list[dict]:
    rows = []
    for i, d in enumerate(DIMENSIONS):
        moving = np.abs(asked[:, i]) >= MOVES
        rows.append({
            "profile": profile.name, "trained": profile.trained, "dim": d, "asked": float(asked[:, i].mean()),
            "told": float(told[:, i].mean()), "told_95": estimate(told[:, i], speakers)["mean_95"],
            "r over clips": FIGURES["r"](told[:, i], asked[:, i]), "clips that move": int(moving.sum()),
            "right direction": float(np.mean(told[moving, i] * asked[moving, i] > 0)) if moving.any() else None,
        })  # fmt: skip
    return rows


def _faults(found: list[simulated.Simulated], name: str, told: np.ndarray, asked: np.ndarray) -> list[dict]:
    """Of the clips whose worst fault is this one; "none" where no fault is audible."""
    groups: dict[str, list[int]] = {}
    for i, clip in enumerate(found):
        groups.setdefault(next(iter(audible(costs(clip.chain))), "none"), []).append(i)
    rows = []
    for fault, at in sorted(groups.items(), key=lambda item: -len(item[1])):
        if len(at) >= LEAST:
            shifts = {f"{d} {what}": float(of[at, i].mean()) for i, d in enumerate(DIMENSIONS)
                      for what, of in (("asked", asked), ("told", told))}  # fmt: skip
            rows.append({"profile": name, "fault": fault, "n": len(at)} | shifts)
    return rows


def _spreads(conditions: Path, mos: np.ndarray, std: np.ndarray, of_each: np.ndarray) -> list[dict]:
    """By mos: the spread of people's votes (mean over conditions), of the panel's listeners (`mos_std`), and of the
    means of all listeners [n, listeners], of whom the panel is the first."""
    with open(conditions, encoding="utf-8") as file:
        human = np.array([[float(row["mos"]), float(row["mos_std"])] for row in csv.DictReader(file)])
    rows = []
    for low, high in pairwise(BINS):
        people, clips = (human[:, 0] >= low) & (human[:, 0] < high), (mos >= low) & (mos < high)
        if people.any() and clips.any():
            rows.append({
                "mos": f"{low:g} to {min(high, 5):g}", "conditions": int(people.sum()),
                "people": float(human[people, 1].mean()), "clips": int(clips.sum()), "panel": float(std[clips].mean()),
                "between profiles": float(of_each[clips, 1:].std(1).mean()),
            })  # fmt: skip
    return rows
