"""Explanations of simulated clips against what was done to them: which faults they name and when, whether a claim goes
with the fault, and what leading questions lead to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from sqllm.audio.degrade import apply
from sqllm.audio.evidence import measure
from sqllm.audio.io import to_int16
from sqllm.corpus import ratings
from sqllm.corpus.questions import ASKED, CHECKS, GAPS, acting, cost, costs
from sqllm.evaluation.metrics import estimate, percentiles, resamples
from sqllm.evaluation.simulated import Simulated
from sqllm.faults import PHRASES, audible
from sqllm.model.prompt import EXPLAIN

NAMED = {name: re.compile(re.sub(r"\\?\{\w+\\?\}", r"\\w+", re.escape(words))) for name, words in PHRASES.items()}
SPAN = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?) s\b")
FRAMES = 1000  # of 10 ms
FROM_OUTSIDE = ("babble", "talker", "reverb")  # faults that cannot be done again without the simulator's recordings
Ask = Callable[[np.ndarray, str], str]  # window, question -> answer


def named(said: str) -> Collection[str]:
    """The faults whose words stand in an answer."""
    return {name for name, pattern in NAMED.items() if pattern.search(said.lower())}


def from_evidence(facts: dict) -> list[str]:
    """The faults that the measured facts alone speak for: the baseline to beat."""
    if facts["level_db"] is None:
        return []
    found = {
        "noise": ratings.noisiness(facts["snr_db"]),
        "treble": math.log2(8000 / max(facts["band_high_hz"], 500)) if facts["band_high_hz"] < 7000 else 0.0,
        "bass": math.log2(max(facts["band_low_hz"], 100) / 100),
        "clipping": math.log10(1 + 10 * facts["clipped_pct"]),
        "loss": math.log1p(20 * facts["dropout_pct"] / 100),
        "quiet": (-26 - facts["level_db"]) / 10,
        "loud": (facts["level_db"] + 26) / 10,
    }
    return audible({name: cost(found, [name]) for name, value in found.items() if value > 0})


def explanations(found: Sequence[Simulated], ask: Ask) -> dict:
    """Figures of the model's explanations, and of the baseline that words the measured facts.

    A fault counts as there where it costs half a point alone and is hidden by no other (`faults.audible`). Recall: how
    many of those are named; precision: how many of the named ones are there. Intervals resample whole clips.
    """
    true = [audible(costs(clip.chain)) for clip in found]
    said = [ask(clip.window, EXPLAIN) for clip in found]
    claims = [named(text) for text in said]
    facts = [measure(clip.window) for clip in found]
    return {
        "explanations": {"distinct": round(len(set(said)) / len(said), 3)} | _faults(claims, true),
        "evidence_only": _faults([set(from_evidence(f)) for f in facts], true),
        "by_kind": list(_by_kind(claims, true)),
        "times": list(_times(found, facts, ask)),
        "counterfactuals": _counterfactuals(found, true, claims, ask),
        "leading_questions": _leading(found, ask),
    }


def _faults(claims: Sequence[Collection[str]], true: Sequence[Sequence[str]]) -> dict:
    worst = estimate([names[0] in claim for claim, names in zip(claims, true, strict=True) if names])
    return {"n": len(true), "worst_fault_named": worst["mean"], "worst_fault_named_95": worst["mean_95"]} | _shares(
        np.array([len(set(names) & set(claim)) for claim, names in zip(claims, true, strict=True)]),
        np.array([len(claim) for claim in claims]),
        np.array([len(names) for names in true]),
    )


def _shares(both: np.ndarray, claimed: np.ndarray, there: np.ndarray) -> dict:
    """Recall and precision from counts of each clip [n]."""

    def share(of: np.ndarray, at) -> float:
        return float(both[at].sum() / of[at].sum()) if of[at].sum() else float("nan")

    every, draws = slice(None), resamples(range(len(both)))
    return {
        "recall": share(there, every), "recall_95": percentiles([share(there, at) for at in draws]),
        "precision": share(claimed, every), "precision_95": percentiles([share(claimed, at) for at in draws]),
    }  # fmt: skip


def _by_kind(claims: Sequence[Collection[str]], true: Sequence[Sequence[str]]):
    for name in PHRASES:
        claimed, there = (np.array([name in names for names in of], int) for of in (claims, true))
        if claimed.any() or there.any():
            counts = {"fault": name, "there": int(there.sum()), "named": int(claimed.sum())}
            yield counts | _shares(claimed & there, claimed, there)


def mask(spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """[FRAMES] whether anything is there; a span has at least one frame."""
    out = np.zeros(FRAMES, bool)
    for start, end in spans:
        out[int(100 * start) : max(round(100 * end), int(100 * start) + 1)] = True
    return out


def overlap(claimed: Sequence[tuple[float, float]], true: Sequence[tuple[float, float]]) -> float:
    """Intersection over union."""
    a, b = mask(claimed), mask(true)
    return float((a & b).sum() / (a | b).sum())


def _times(found: Sequence[Simulated], facts: Sequence[dict], ask: Ask):
    """Intersection over union of claimed and true spans, where a fault has spans; 0 where no span is claimed."""
    for what, kinds, topic in (("dropouts", GAPS, "when"), ("noise", ("noise",), "when_noise")):
        model, baseline, claimed = [], [], []
        for clip, measured in zip(found, facts, strict=True):
            steps = [s for s in acting(clip.chain) if s.kind in kinds]
            spans = [span for step in steps for span in step.spans]
            if not spans or any(not step.spans for step in steps):
                continue
            times = [(float(a), float(b)) for a, b in SPAN.findall(ask(clip.window, ASKED[topic][0][0]))]
            claimed.append(bool(times))
            model.append(overlap(times, spans) if times else 0.0)
            gaps = [(gap["start_s"], gap["end_s"]) for gap in measured["dropouts"]]
            baseline.append(overlap(gaps, spans) if gaps and what == "dropouts" else 0.0)
        if model:
            got = estimate(model)
            yield {"when": what, "n": len(model), "claims_a_time": float(np.mean(claimed)), "iou": got["mean"],
                   "iou_95": got["mean_95"], "iou_evidence_only": float(np.mean(baseline))}  # fmt: skip


def without(clip: Simulated, fault: str) -> np.ndarray | None:
    """The clip as it is without that fault; None where the rest of the chain needs the simulator's recordings."""
    rest = [step for step in clip.chain if fault not in ratings.severities([step])]
    if any(s.kind in FROM_OUTSIDE or s.params.get("colour") == "recorded" for s in rest):
        return None
    chain = [replace(step, spans=[]) for step in rest]
    clean = clip.reference / np.float32(32768)
    return to_int16(apply(clean, chain, np.random.default_rng(clip.index)))


def _counterfactuals(
    found: Sequence[Simulated], true: Sequence[Sequence[str]], claims: Sequence[Collection[str]], ask: Ask
) -> dict:
    """The worst fault that is rightly claimed is taken away: is the claim gone, and do the other right ones stay?"""
    gone, stay = [], []
    for clip, names, claim in zip(found, true, claims, strict=True):
        fault = next((name for name in names if name in claim), None)
        window = without(clip, fault) if fault else None
        if window is None:
            continue
        now = named(ask(window, EXPLAIN))
        gone.append(fault not in now)
        stay += [name in now for name in names if name in claim and name != fault]
    a, b = estimate(gone), estimate(stay)
    return {"n": a["n"], "claim_gone": a["mean"], "claim_gone_95": a["mean_95"],
            "others": b["n"], "others_stay": b["mean"], "others_stay_95": b["mean_95"]}  # fmt: skip


def _leading(found: Sequence[Simulated], ask: Ask) -> dict:
    """A fault is suggested of clean audio (each clip's reference), in a trained and in a held-out wording: how often is
    the answer Yes?"""
    yes: dict[bool, list[bool]] = {False: [], True: []}
    for i, clip in enumerate(found):
        check = CHECKS[i % len(CHECKS)]
        for held_out in yes:
            yes[held_out].append(ask(clip.reference, check.asked[held_out][0])[:3] == "Yes")
    every, held_out = estimate(yes[False] + yes[True]), estimate(yes[True])
    return {"n": every["n"], "wrong_yes": every["mean"], "wrong_yes_95": every["mean_95"],
            "wrong_yes_held_out": held_out["mean"]}  # fmt: skip
