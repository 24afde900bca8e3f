"""Whether scores fall when a fault grows: clean speech of speakers that training has not heard (`simulate.is_val`),
degraded in five steps of one fault at a time, beside what people said of the same kind of fault."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from sqllm import DIMENSIONS
from sqllm.audio.degrade import Impairment, Sources, apply, to_level
from sqllm.audio.io import to_int16
from sqllm.corpus.calibrate import parse
from sqllm.corpus.simulate import Pool, speakers_of

STEPS = {  # of each fault: the dimension it is about, and five values from none or little to severe
    "noise": ("noi", "snr_db", (40.0, 30.0, 20.0, 10.0, 0.0)),
    "band": ("col", "high_hz", (8000.0, 4000.0, 2500.0, 1600.0, 1000.0)),
    "loss": ("dis", "rate", (0.0, 0.03, 0.08, 0.18, 0.35)),
    "level": ("loud", "gain_db", (0.0, -8.0, -16.0, -24.0, -32.0)),
    "chop": ("dis", "rate", (0.01, 0.03, 0.08, 0.18, 0.35)),
    "clipping": ("col", "threshold", (1.0, 0.3, 0.1, 0.03, 0.01)),
    "talker": ("noi", "snr_db", (40.0, 30.0, 20.0, 10.0, 0.0)),
    "babble": ("noi", "snr_db", (40.0, 30.0, 20.0, 10.0, 0.0)),
    "echo": ("mos", "gain_db", (-40.0, -25.0, -18.0, -10.0, -3.0)),
}
EXTRA = {"noise": {"colour": "recorded"}, "loss": {"burst": 2.0}, "echo": {"delay_ms": 200.0}}
SINGLE = {
    "white": "noise", "noise": "noise", "treble": "band", "loss": "loss", "quiet": "level", "chop": "chop",
    "clipping": "clipping",
}  # fmt: skip


def severity(predictor, speech: str, noise: str | None = None, speakers: str | None = None) -> dict:
    """Mean scores [5 steps, 5 dimensions] of each fault over unseen speakers."""
    pool = Pool(speech, noise, None, speakers_of(speakers))
    clean = {pool.speaker(name): pool.speech[name][:160_000] for name in pool.unheard()}
    result: dict = {"speakers": len(clean), "faults": {}}
    for kind, (dimension, parameter, values) in STEPS.items():
        means = []
        for value in values:
            windows = []
            for number, (speaker, x) in enumerate(clean.items()):
                rng = np.random.default_rng([3, number])
                chain = [Impairment(kind, {parameter: value, **EXTRA.get(kind, {})})]
                sources = Sources(pool.noises["val"], talkers=[y for name, y in clean.items() if name != speaker])
                windows.append(to_int16(apply(to_level(x), chain, rng, sources)))
            means.append(predictor.score_windows(windows)[0][:, 0].mean(0))
        own = np.array(means)[:, DIMENSIONS.index(dimension)]
        result["faults"][kind] = {
            "parameter": parameter, "values": values, "dimension": dimension, "falls": bool((np.diff(own) < 0).all()),
            "scores": np.round(means, 2).tolist(),
        }  # fmt: skip
    return result


def human(conditions: Path) -> list[tuple[str, str, list[float]]]:
    """Fault, description and ratings of the human-rated conditions that hold one of these faults alone."""
    with open(conditions, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        parts = parse(row["con_description"]) or {}
        kinds = {SINGLE.get(name) for name in parts}
        if len(kinds) == 1 and None not in kinds:
            found.append((kinds.pop(), row["con_description"], [float(row[d]) for d in DIMENSIONS]))
    return sorted(found)


def show(result: dict, conditions: Path | None) -> None:
    """Print the scores of each step, and the human-rated `conditions` with the same fault."""
    rated = human(conditions) if conditions else []
    for kind, fault in result["faults"].items():
        falls = "falls at every step" if fault["falls"] else "DOES NOT FALL at every step"
        print(f"\n{kind}: {fault['dimension']} {falls}")
        print(f"{fault['parameter']:>34}  " + "".join(f"{d:>6}" for d in DIMENSIONS))
        for value, scores in zip(fault["values"], fault["scores"], strict=True):
            print(f"{value:>34g}  " + "".join(f"{s:6.2f}" for s in scores))
        for _, condition, scores in [x for x in rated if x[0] == kind]:
            print(f"{'people: ' + condition:>34}  " + "".join(f"{s:6.2f}" for s in scores))
