"""From judgements beside votes to a list of figures.

A *judgement* is a dict of one predicted and one voted value: `predicted` and `true` (None where there is no number),
`dim`, and where known `task`, `ended` (single or double), `set`, `condition`, `lang`, `rate`, and of the vote `std` and
`votes`. A *figure* is a dict of `metrics.agreement` and of what it is about.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sqllm import DIMENSIONS
from sqllm.errors import UsageError
from sqllm.evaluation.metrics import FIGURES, agreement, by_condition, interval, percentiles, resamples

GROUPS = ("set", "lang", "rate")  # figures are given for each value of these, and for all clips together
ORDER = [*DIMENSIONS, *(f"{d}_std" for d in DIMENSIONS)]


def figures(judgements: Iterable[dict]) -> list[dict]:
    """Per task, ended, dimension and group: the agreement per clip, and per condition where conditions have a name."""
    out, judgements = [], list(judgements)
    for by in (None, *GROUPS):
        values = sorted({str(j[by]) for j in judgements if j.get(by) is not None}) if by else [None]
        if by and len(values) < (1 if by == "set" else 2):
            continue
        if by is None and len({j.get("set") for j in judgements}) == 1 and judgements[0].get("set"):
            continue  # all clips together are the one set
        for value in values:
            chosen = [j for j in judgements if by is None or str(j.get(by)) == value]
            kinds = sorted(
                {(j.get("task") or "", j.get("ended") or "") for j in chosen}, key=lambda k: (k[0], k[1] == "double")
            )
            for task, ended in kinds:
                of_kind = [j for j in chosen if (j.get("task") or "", j.get("ended") or "") == (task, ended)]
                for dim in sorted({j["dim"] for j in of_kind}, key=ORDER.index):
                    about = {"by": by or "all", "group": value or "all", "task": task, "ended": ended, "dim": dim}
                    out += _figures([j for j in of_kind if j["dim"] == dim], about)
    return out


def _figures(judgements: list[dict], about: dict) -> list[dict]:
    answered = [j for j in judgements if j["predicted"] is not None and j["true"] is not None]
    missing = sum(j["predicted"] is None for j in judgements)
    if len(answered) < 3:
        return [{**about, "level": "clip", "n": len(answered), "missing": missing}]
    predicted, true = ([j[name] for j in answered] for name in ("predicted", "true"))
    conditions = [(j.get("set"), j.get("condition")) for j in answered]
    named = all(c is not None for _, c in conditions)
    names = [f"{s}/{c}" for s, c in conditions] if named else None
    known = all(j.get("std") is not None and j.get("votes") is not None for j in answered)
    ci = interval([j["std"] for j in answered], [j["votes"] for j in answered]) if known else None
    out = [{**about, "level": "clip", "missing": missing, **agreement(predicted, true, names, ci)}]
    if names and 2 < len(set(names)) < len(names):
        out.append({**about, "level": "condition", "missing": 0, **agreement(*by_condition(names, predicted, true))})
    return out


def differences(judgements: Iterable[dict]) -> list[dict]:
    """Double-ended against single-ended on the same clips: the gain of r for each dimension, with its interval."""
    out, pairs = [], {}
    for j in judgements:
        if j["predicted"] is not None and j["true"] is not None and j.get("ended") in ("single", "double"):
            pairs.setdefault((j["dim"], j["clip"]), {})[j["ended"]] = j
    pearson = FIGURES["r"]
    for dim in sorted({d for d, _ in pairs}, key=ORDER.index):
        both = [p for (d, _), p in pairs.items() if d == dim and len(p) == 2]
        names = [f"{p['single'].get('set')}/{p['single'].get('condition') or p['single']['clip']}" for p in both]
        if not (draws := resamples(names)):
            continue
        single, double = (np.array([p[ended]["predicted"] for p in both]) for ended in ("single", "double"))
        true = np.array([p["single"]["true"] for p in both])
        gains = [pearson(double[at], true[at]) - pearson(single[at], true[at]) for at in draws]
        figure = {"single": pearson(single, true), "double": pearson(double, true)}
        figure["gain"] = figure["double"] - figure["single"]
        out.append({"dim": dim, "n": len(both), **figure, "gain_95": percentiles(gains)})
    return out


def predictions(path: Path) -> list[dict]:
    """Judgements from a CSV with `y_true` and `y_pred` (empty: the answer held no number), and where known `dim`,
    `task`, `set`, `condition`, `lang`, `std` and `votes` of the vote. The paper's released files are such."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    for name in ("y_true", "y_pred"):
        if name not in names:
            raise UsageError(f"{path} has no column {name!r}; it has {', '.join(names)}")

    def number(text: str | None, line: int) -> float | None:
        try:
            return float(text) if text else None
        except ValueError:
            raise UsageError(f"{path}, line {line}: {text!r} is not a number") from None

    out = []
    for line, row in enumerate(rows, 2):
        dim = row.get("dim") or "mos"
        if dim not in ORDER:
            raise UsageError(f"{path}, line {line}: dim is {dim!r}; it can be {', '.join(DIMENSIONS)}")
        judgement = {k: row.get(k) or None for k in ("task", "set", "condition", "lang", "ended")}
        judgement |= {"dim": dim, "clip": line, "status": row.get("status") or None}
        judgement |= {"predicted": number(row["y_pred"], line), "true": number(row["y_true"], line)}
        out.append(judgement | {k: number(row.get(k), line) for k in ("std", "votes")})
    return out


def statuses(judgements: Iterable[dict]) -> dict[str, int]:
    """How many answers had a number, lacked a dimension, and so on, as the predictions say it."""
    return dict(Counter(j["status"] for j in judgements if j.get("status")).most_common())
