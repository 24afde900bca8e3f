"""Answers about simulated clips of speakers that training has not heard, against what was done to the clips."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sqllm import DIMENSIONS
from sqllm.audio.degrade import Impairment
from sqllm.audio.evidence import describe, measure
from sqllm.audio.io import to_int16
from sqllm.corpus.questions import CHECKS, SCALE, Clip, Dialogue, draw
from sqllm.corpus.shards import samples
from sqllm.errors import UsageError
from sqllm.faults import PHRASES
from sqllm.model.prompt import EXPLAIN

NAMED = {name: re.compile(re.sub(r"\\?\{\w+\\?\}", r"\\w+", re.escape(words))) for name, words in PHRASES.items()}


def words(predictor, corpus: Path, clips: int, withheld: bool = False, verbose: bool = False) -> dict:
    """What share of answers agrees with the truth, by task; and what explanations name.

    Yes or no by the first word, a category by its word, "when" by its times. Of explanations: in how many the worst
    fault is named, and over all kinds of fault how many of the audible ones are named (recall) and how many of the
    named ones are audible (precision), "audible" being what costs half a point alone and is hidden by no other. Of
    clips without a fault: how many leading questions get a Yes. `held_out` wordings are never trained; `withheld`
    leaves the measured facts out of the prompt.
    """
    rows = list(islice((row for path in sorted(corpus.glob("clips-*.parquet")) for row in _val(path)), clips))
    if not rows:
        raise UsageError(f"no clips of the split val in {corpus}")
    right: dict[str, list[bool]] = {}
    found = {"worst_named": [], "named": 0, "audible": 0, "both": 0, "texts": set(), "wrong_yes": []}
    for row in rows:
        rng = np.random.default_rng([5, row["index"]])
        window = to_int16(samples(row["audio"]))
        chain = [Impairment(s["kind"], s["params"], [tuple(x) for x in s["spans"]]) for s in json.loads(row["chain"])]
        truth, facts = {d: row[d] for d in DIMENSIONS}, measure(window)
        mean = predictor.score_windows([window]).mean[0, 0]
        told = "" if withheld else describe(facts)

        def ask(question: str, mean=mean, window=window, told=told) -> str:
            return "".join(predictor.answer(mean, window, None, told, question)).partition(". ")[2]

        for held_out in (False, True):
            d = draw(chain, truth, facts, rng, held_out)
            if d.task == "explain":
                continue
            agreed = agrees(d, said := ask(d.question))
            if verbose:
                print(f"{row['index']} {d.task} {'' if agreed else 'WRONG '}| {d.question} | {said} | {d.answer}")
            if agreed is not None:
                right.setdefault(f"{d.task}{', held_out' if held_out else ''}", []).append(agreed)
        clip, said = Clip(chain, truth, facts, rng, False), ask(EXPLAIN)
        names = named(said)
        if clip.faults:
            found["worst_named"].append(clip.faults[0] in names)
        found["named"] += len(names)
        found["audible"] += len(clip.faults)
        found["both"] += len(names & set(clip.faults))
        found["texts"].add(said)
        if not clip.costs:
            found["wrong_yes"] += [ask(check.asked[0][0])[:3] == "Yes" for check in CHECKS]
        if verbose:
            print(f"{row['index']} explain | {said} | {clip.heard}")
    return {
        "tasks": {task: {"n": len(ok), "agree": round(float(np.mean(ok)), 3)} for task, ok in sorted(right.items())},
        "explanations": {
            "n": len(rows),
            "worst_fault_named": _share(found["worst_named"]),
            "recall": round(found["both"] / max(found["audible"], 1), 3),
            "precision": round(found["both"] / max(found["named"], 1), 3),
            "distinct": round(len(found["texts"]) / len(rows), 3),
        },
        "leading_questions": {"n": len(found["wrong_yes"]), "wrong_yes": _share(found["wrong_yes"])},
    }


def _share(values: list[bool]) -> float | None:
    return round(float(np.mean(values)), 3) if values else None


def _val(path: Path) -> list[dict]:
    return [row for row in pq.read_table(path).to_pylist() if row["split"] == "val"]


def named(said: str) -> Collection[str]:
    """The faults whose words stand in an answer."""
    return {name for name, pattern in NAMED.items() if pattern.search(said.lower())}


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
