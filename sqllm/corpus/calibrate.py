"""Fit `ratings.WEIGHTS` to human-rated conditions: `python -m sqllm.corpus.calibrate CONDITIONS.csv`.

The CSV has a row per condition with columns `set, con_description, mos, noi, col, dis, loud` (the NISQA test sets'
descriptions, such as "AMR-WB@8.85 PL 18% bursty"). Only descriptions that the simulator's parameters can express are
used; what else there is (calls through apps, live recordings) is skipped and counted.
"""

from __future__ import annotations

import csv
import math
import re
import sys

import numpy as np
from scipy.optimize import nnls

from sqllm.corpus.ratings import CLEAN, DIMENSIONS, noisiness


def parse(text: str) -> dict[str, float] | None:
    """Severities of a condition from its description, None where it cannot be expressed."""
    text = re.sub(r"^(WhatsApp|Discord|Skype) Good", "", text)  # as good as clean, and with noise: kept for the noise
    if re.search(r"WhatsApp|Zoom|Discord|Skype|VoLTE|phone|Facebook|Medium|Bad|Good|line|building", text):
        return None
    s: dict[str, float] = {}
    rest = text.replace("Anchor:", "").replace("FB ", "")

    def take(pattern):
        nonlocal rest
        found = re.search(pattern, rest)
        if found:
            rest = rest.replace(found.group(0), " ", 1)
        return found

    while m := take(r"PL\s*(\d+)%"):
        s["loss"] = s.get("loss", 0) + math.log1p(20 * float(m[1]) / 100)
    gain = 0.0
    if m := take(r"Level ([+-]?\d+)\s*dB"):
        gain = float(m[1])
        s["quiet" if gain < 0 else "loud"] = abs(gain) / 10
    if m := take(r"White Noise (\d+)dB|^\s*Noise (\d+)dB"):
        s["white"] = noisiness(float(m[1] or m[2]), gain)
    if m := take(r"BGN (\d+)\s*dB"):
        s["noise"] = noisiness(float(m[1]), gain)
    if m := take(r"BP (\d+)-(\d+)Hz"):
        s["treble"], s["bass"] = math.log2(8000 / float(m[2])), math.log2(float(m[1]) / 100)
    if m := take(r"Time Clipping (\d+)%"):
        s["chop"] = math.log1p(40 * float(m[1]) / 100)
    if m := take(r"Amp clipping ([\d.]+)"):
        s["clipping"] = math.log10(1 / float(m[1]))
    if m := take(r"P50MNRU (\d+)dB"):
        s["mnru"] = ((35 - float(m[1])) / 10) ** 2
    while m := take(r"AMR-NB\s*@\s*([\d.]+)"):
        s["narrow"] = 1.0
        s["coding"] = s.get("coding", 0) + math.log2(12.2 / float(m[1]))
    while m := take(r"(?:AMR-WB|EVS|Opus)\s*@\s*([\d.]+)"):
        s["wide_coding"] = s.get("wide_coding", 0) + max(0.0, math.log2(24 / float(m[1])))
    if take(r"selftandem x3"):
        s["wide_coding"] *= 3
    return {k: v for k, v in s.items() if v > 0}


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if "LIVETALK" not in r["set"]]
    used = [(p, r) for r in rows if (p := parse(r["con_description"])) is not None]
    names = sorted({n for p, _ in used for n in p})
    a = np.array([[p.get(n, 0.0) for n in names] for p, _ in used])
    weights, fits = {}, {}
    for d in DIMENSIONS:
        y = np.array([float(r[d]) for _, r in used])
        retained = np.clip((y - 1) / (CLEAN[d] - 1), 0.02, 1.0)
        # an error of the score, not of its logarithm, counts: weight each row by d(score)/d(exponent)
        w = retained[:, None]
        weights[d], _ = nnls(a * w, (-np.log(retained))[:, None].ravel() * w.ravel())
        fit = 1 + (CLEAN[d] - 1) * np.exp(-a @ weights[d])
        fits[d] = (np.corrcoef(fit, y)[0, 1], np.sqrt(np.mean((fit - y) ** 2)))
    print(f"# {len(used)} of {len(rows)} conditions")
    for i, n in enumerate(names):
        print(f'    "{n}": ({", ".join(f"{weights[d][i]:.2f}" for d in DIMENSIONS)}),')
    for d in DIMENSIONS:
        print(f"# {d}: r {fits[d][0]:.3f}, RMSE {fits[d][1]:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
