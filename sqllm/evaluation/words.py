"""Answers about simulated clips of speakers that training has not heard, against what was done to the clips."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sqllm import DIMENSIONS
from sqllm.audio.evidence import describe, measure
from sqllm.corpus.questions import ASKED, Dialogue, draw
from sqllm.evaluation import simulated
from sqllm.evaluation.explanations import explanations
from sqllm.evaluation.metrics import estimate
from sqllm.plain import SCALE
from sqllm.recording import Worst

APART = 0.5  # in mos: of closer clips nobody need say which is better


def words(predictor, corpus: Path, clips: int, withheld: bool = False, verbose: bool = False) -> dict:
    """What share of answers agrees with the truth, by task; and `explanations`.

    Yes or no by the first word, a category by its word, "when" by its times, a comparison (of clips that are `APART`)
    by which is better. `held_out` wordings are never trained; `withheld` leaves the measured facts out of the prompt.
    """
    found = simulated.read(corpus, clips)
    right: dict[str, list[bool]] = {}
    known: dict[bytes, Worst] = {}

    def about(window: np.ndarray) -> Worst:
        if (key := window.tobytes()) not in known:
            told = "" if withheld else describe(measure(window))
            known[key] = Worst(predictor.score_windows([window]).mean[0, 0], window, None, 0.0, told)
        return known[key]

    def ask(window: np.ndarray, question: str, other: np.ndarray | None = None) -> str:
        said = "".join(predictor.answer(about(window), question, other=None if other is None else about(other)))
        said = said.split(". ", 1 if other is None else 2)[-1]  # without the scores
        if verbose:
            print(f"{question} | {said}")
        return said

    for clip in found:
        rng = np.random.default_rng([5, clip.index])
        truth, facts = dict(zip(DIMENSIONS, clip.mean.tolist(), strict=True)), measure(clip.window)
        for held_out in (False, True):
            d = draw(clip.chain, truth, facts, rng, held_out)
            if d.task == "explain":
                continue
            agreed = agrees(d, ask(clip.window, d.question))
            if verbose:
                print(f"{clip.index} {d.task} {'' if agreed else 'WRONG '}| {d.answer}")
            if agreed is not None:
                right.setdefault(f"{d.task}{', held_out' if held_out else ''}", []).append(agreed)
    for clip, other in zip(found[::2], found[1::2], strict=False):
        for i, kind in enumerate(("compare", "compare, held_out")):
            if (apart := clip.mean[0] - other.mean[0]) and abs(apart) >= APART:
                said = ask(clip.window, ASKED["better"][i][0], other.window)
                right.setdefault(kind, []).append(said.startswith("The first" if apart > 0 else "The second"))
    return {"tasks": [{"task": task, **estimate(ok)} for task, ok in sorted(right.items())]} | explanations(found, ask)


def agrees(asked: Dialogue, said: str) -> bool | None:
    if asked.task == "yes_no":
        return said[:2].lower() == asked.answer[:2].lower()
    if asked.task == "category":
        heard = [next((word for _, word in SCALE if word in text.lower()), "") for text in (said, asked.answer)]
        return heard[0] == heard[1]
    if asked.task == "when":
        tail = [re.sub(r"^[^0-9]*", "", text) or text for text in (said, asked.answer)]
        return tail[0] == tail[1]
    return None
