"""Controls: what must make a difference to a score does, and what must not does not.

On simulated clips of speakers that training has not heard. Intervals hold 95 % and resample whole speakers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sqllm import DIMENSIONS, plain
from sqllm.audio.align import align
from sqllm.audio.evidence import describe, measure
from sqllm.corpus.questions import ASKED, MEANS, costs
from sqllm.evaluation import simulated
from sqllm.evaluation.metrics import FIGURES, estimate, percentiles, resamples
from sqllm.evaluation.simulated import Simulated
from sqllm.faults import audible
from sqllm.model import answering, checklist
from sqllm.model.prompt import EXPLAIN, QUESTIONS, RATE_IT
from sqllm.model.scoring import AnswerTree
from sqllm.recording import Worst

# wordings that no training has seen: of what is asked of the recording, and of what stands before each number
REQUESTS = ("Rate the recording.", "How good is the quality?", "Please judge this call.", "Give your scores.")
NAMES = {
    "titles": {d: f"{title}: " for d, title in plain.NAMES.items()},
    "nouns": {"mos": "quality: ", "noi": "noise: ", "col": "tone: ", "dis": "gaps: ", "loud": "level: "},
}


@torch.inference_mode()
def controls(predictor, corpus: Path, clips: int, spoken: int = 20) -> dict:
    """All controls on `clips` clips; those that generate words on `spoken` of them."""
    found = simulated.read(corpus, clips)
    audio = simulated.hear(predictor, [clip.window for clip in found])
    reference = simulated.hear(predictor, [clip.reference for clip in found])
    speakers = [clip.speaker for clip in found]
    true = np.array([clip.mean for clip in found])
    single = simulated.rate(predictor, audio)[0][:, 0]
    double = simulated.rate(predictor, audio, reference)[0][:, 0]
    return {
        "clips": len(found),
        "audio tokens of another clip": _swapped(predictor, found, audio, reference, single, double, true, speakers),
        "faults, with audio or facts of another clip": _faults(predictor, found, audio),
        "reference of another clip": _references(predictor, found, audio, reference, single, speakers),
        "wordings": list(_wordings(predictor, audio, single, true, speakers)),
        "each question has its own answer": _questions(single, true),
        "tree against text": _generated(predictor, audio, single, true, speakers),
        "words against numbers": _words(predictor, found[:spoken], single[:spoken]),
    }


def _other(n: int) -> np.ndarray:
    """Half the clips further on: another clip, and with few clips a speaker most of another speaker's."""
    return (np.arange(n) + max(n // 2, 1)) % n


def _r(predicted: np.ndarray, true: np.ndarray, speakers: Sequence[str]) -> dict:
    """Pearson r of mos, and the mean over all five dimensions, with its interval."""

    def mean(at) -> float:
        return float(np.mean([FIGURES["r"](predicted[at, d], true[at, d]) for d in range(5)]))

    every = np.arange(len(true))
    return {
        "r of mos": FIGURES["r"](predicted[:, 0], true[:, 0]), "r, mean of five": mean(every),
        "95 %": percentiles([mean(at) for at in resamples(speakers)]),
    }  # fmt: skip


def _swapped(predictor, found, audio, reference, single, double, true, speakers) -> list[dict]:
    """The degraded clip's audio tokens are another clip's; reference, facts and labels stay."""
    at = _other(len(found))
    shuffled = simulated.rate(predictor, audio[at])[0][:, 0]
    shuffled_double = simulated.rate(predictor, audio[at], reference)[0][:, 0]
    rows = [
        {"asked": "single-ended"} | _r(single, true, speakers),
        {"asked": "single-ended, shuffled"} | _r(shuffled, true, speakers),
        {"asked": "double-ended"} | _r(double, true, speakers),
        {"asked": "double-ended, shuffled"} | _r(shuffled_double, true, speakers),
    ]
    return rows


def _faults(predictor, found: list[Simulated], audio: Tensor) -> list[dict]:
    """In how many clips the worst fault is named, where what the model hears and what it is told belong together, or
    one of them is another clip's or withheld."""
    at = _other(len(found))
    facts = [describe(measure(clip.window)) for clip in found]
    true = [audible(costs(clip.chain)) for clip in found]
    kept = [i for i, faults in enumerate(true) if faults]

    def named(audio: Tensor, facts: Sequence[str]) -> dict:
        parts = [slice(i, i + simulated.BATCH) for i in range(0, len(found), simulated.BATCH)]
        told = [
            c for part in parts for c in checklist.costs(checklist.check(predictor.model, facts[part], audio[part]))
        ]
        return estimate([true[i][0] in audible(told[i]) for i in kept], [found[i].speaker for i in kept])

    return [
        {"worst fault named": "audio and facts"} | named(audio, facts),
        {"worst fault named": "audio alone"} | named(audio, [""] * len(facts)),
        {"worst fault named": "audio of another clip, own facts"} | named(audio[at], facts),
        {"worst fault named": "own audio, facts of another clip"} | named(audio, [facts[i] for i in at]),
    ]


def _references(predictor, found: list[Simulated], audio, reference, single, speakers) -> dict:
    """Whether the aligner takes the clip's own reference and refuses another's; and what that would do to a score."""
    at = _other(len(found))
    own = [align(clip.window, clip.reference).used for clip in found]
    wrong = [align(clip.window, found[i].reference).used for clip, i in zip(found, at, strict=True)]
    forced = simulated.rate(predictor, audio, reference[at])[0][:, 0]
    return {
        "own reference used": estimate(own, speakers),
        "another's reference refused": estimate(~np.array(wrong), speakers),
        "shift of mos if another's were used": estimate(np.abs(forced - single)[:, 0], speakers),
    }


@contextmanager
def worded(model, request: str = RATE_IT, names: dict[str, str] = QUESTIONS) -> Iterator[None]:
    """The model scores under other words than it was trained on."""
    rating, tree = model.prompt.rating, model.tree
    model.prompt.rating = lambda reference=False: [*model.prompt.audio(reference), model.prompt.question(request)]
    model.tree = lambda listeners: AnswerTree.build(model.tokenizer, list(names.values()), listeners)
    try:
        yield
    finally:
        model.prompt.rating, model.tree = rating, tree


def _wordings(predictor, audio, single, true, speakers) -> Iterator[dict]:
    for request, names in [*((r, "") for r in REQUESTS), *((RATE_IT, name) for name in NAMES)]:
        with worded(predictor.model, request, NAMES.get(names, QUESTIONS)):
            other = simulated.rate(predictor, audio)[0][:, 0]
        shift = np.abs(other - single)
        yield {
            "wording": request if not names else ", ".join(NAMES[names].values()),
            **{f"shift of {d}": float(shift[:, i].mean()) for i, d in enumerate(DIMENSIONS)},
            "95 % of mos": estimate(shift[:, 0], speakers)["mean_95"],
            "r of mos": FIGURES["r"](other[:, 0], true[:, 0]),
        }


def _questions(single: np.ndarray, true: np.ndarray) -> list[dict]:
    """r of each question's answers (rows) with each dimension's truth, less what all dimensions share (their mean)."""
    own, target = (x - x.mean(1, keepdims=True) for x in (single, true))
    return [
        {"asked": d} | {f"true {t}": FIGURES["r"](own[:, i], target[:, j]) for j, t in enumerate(DIMENSIONS)}
        for i, d in enumerate(DIMENSIONS)
    ]


def _generated(predictor, audio, single, true, speakers) -> list[dict]:
    """Numbers that are written and parsed, as the paper does, against those of the tree."""
    parts = [answering.generate_scores(predictor.model, audio[i : i + 8]).numpy() for i in range(0, len(audio), 8)]
    text = np.concatenate(parts)[:, 0]
    kept = np.isfinite(text).all(1)
    among = np.array(speakers)[kept]
    apart = estimate(np.abs(text - single)[kept, 0], among)
    found = {"without a number": int((~kept).sum()), "differs in mos by": apart["mean"], "its 95 %": apart["mean_95"]}
    return [
        {"numbers from": "the tree"} | _r(single[kept], true[kept], among),
        {"numbers from": "text"} | _r(text[kept], true[kept], among) | found,
    ]


def said_word(text: str) -> str | None:
    """The category that an answer states."""
    return next((word for _, word in sorted(plain.SCALE, key=lambda s: -len(s[1])) if word in text.lower()), None)


def verdict(text: str) -> tuple[float, float] | None:
    """From which to which mos an explanation's closing sentence stands."""
    low = 1.0
    for high, sentences in MEANS:
        if any(sentence in text for sentence in sentences):
            return low, min(high, 5.0)
        low = high
    return None


def _words(predictor, found: list[Simulated], single: np.ndarray) -> list[dict]:
    """How often what is said contradicts the scores that stand in front of it."""
    outcomes: dict[str, list[bool]] = {}
    for clip, mean in zip(found, single, strict=True):
        told = describe(measure(clip.window))
        scores = {d: round(float(score), 1) for d, score in zip(DIMENSIONS, mean, strict=True)}

        def ask(question: str, mean=mean, clip=clip, told=told) -> str:
            return "".join(predictor.answer(Worst(mean, clip.window, None, 0.0, told), question)).partition(". ")[2]

        for i, kind in enumerate(("category, trained wording", "category, held-out wording")):
            for d, title in plain.NAMES.items():
                said = ask(ASKED["category"][i][0].format(title=title))
                outcomes.setdefault(kind, []).append(said_word(said) != plain.word(scores[d]))
                if numbers := re.findall(r"\d\.\d", said):
                    outcomes.setdefault(f"number in it, {kind[10:]}", []).append(float(numbers[0]) != scores[d])
        if band := verdict(explained := ask(EXPLAIN)):
            outcomes.setdefault("closing sentence of an explanation", []).append(
                not band[0] - 0.05 <= scores["mos"] <= band[1] + 0.05
            )
        if numbers := re.findall(r"(\d\.\d) overall|score of (\d\.\d)", explained):
            outcomes.setdefault("number in an explanation", []).append(float("".join(numbers[0])) != scores["mos"])
    return [{"contradicts": kind, **estimate(values)} for kind, values in outcomes.items()]
