"""From judgements beside votes to a list of figures.

A *judgement* is a dict of one predicted and one voted value: `predicted` and `true` (None where there is no number),
`dim`, and where known `task`, `judge` (a model or a peer), `ended` (single or double), `set`, `condition`,
`reference_uri`, `lang`, `rate`, and of the vote `std` and `votes`. A *figure* is a dict of `metrics.agreement` and of
what it is about.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sqllm import DIMENSIONS
from sqllm.errors import UsageError
from sqllm.evaluation.metrics import FIGURES, LEAST, agreement, by_condition, interval, percentiles, resamples

GROUPS = ("set", "lang", "rate")  # figures are given for each value of these, and for all clips together
ORDER = [*DIMENSIONS, *(f"{d}_std" for d in DIMENSIONS)]
BEYOND_RANKS = ("r", "r_95", "mae", "mae_95", "rmse", "rmse_95", "rmse_star", "outlier_ratio", "mapped")


def figures(judgements: Iterable[dict], ranks: bool = False) -> list[dict]:
    """Per task, dimension, judge, ended and group: the agreement per clip, and per condition where conditions have a
    name. With `ranks` only what ranks say: the votes may be on any scale."""
    out, judgements = [], list(judgements)
    for by in (None, *GROUPS):
        values = sorted({str(j[by]) for j in judgements if j.get(by) is not None}) if by else [None]
        if by and len(values) < (1 if by == "set" else 2):
            continue
        if by is None and len({j.get("set") for j in judgements}) == 1 and judgements[0].get("set"):
            continue  # all clips together are the one set
        for value in values:
            chosen = [j for j in judgements if by is None or str(j.get(by)) == value]
            kinds: dict[tuple, list[dict]] = {}  # in the order in which judges come
            for j in chosen:
                key = (j.get("task") or "", ORDER.index(j["dim"]), j.get("judge") or "", j.get("ended") or "")
                kinds.setdefault(key, []).append(j)
            for key in sorted(kinds, key=lambda k: k[:2]):
                task, dim, judge, ended = key
                about = {"by": by or "all", "group": value or "all", "task": task, "judge": judge, "ended": ended}
                out += _figures(kinds[key], about | {"dim": ORDER[dim]})
    return [{k: v for k, v in f.items() if k not in BEYOND_RANKS} for f in out] if ranks else out


def _figures(judgements: list[dict], about: dict) -> list[dict]:
    answered = [j for j in judgements if j["predicted"] is not None and j["true"] is not None]
    missing = sum(j["predicted"] is None for j in judgements)
    if len(answered) < 3:
        return [{**about, "level": "clip", "n": len(answered), "missing": missing}]
    predicted, true = ([j[name] for j in answered] for name in ("predicted", "true"))
    names = _names(answered, "condition")
    known = all(j.get("std") is not None and j.get("votes") is not None for j in answered)
    ci = interval([j["std"] for j in answered], [j["votes"] for j in answered]) if known else None
    out = [{**about, "level": "clip", "missing": missing, **agreement(predicted, true, _clusters(answered), ci)}]
    if names and 2 < len(set(names)) < len(names):
        out.append({**about, "level": "condition", "missing": 0, **agreement(*by_condition(names, predicted, true))})
    return out


def _names(judgements: Sequence[dict], what: str) -> list[str] | None:
    """The condition, or the reference, of each judgement; None where one has none."""
    found = [(j.get("set"), j.get(what)) for j in judgements]
    return [f"{s}/{name}" for s, name in found] if all(name is not None for _, name in found) else None


def _clusters(judgements: Sequence[dict]) -> list[str] | None:
    """What bootstrap samples take whole: conditions. Where these are too few for an interval, the references: it says
    then what other talk through the same few conditions would give."""
    conditions, references = (_names(judgements, what) for what in ("condition", "reference_uri"))
    few = conditions and len(set(conditions)) < LEAST
    return references if few and references and len(set(references)) < len(references) else conditions


def comparisons(judgements: Iterable[dict], *statistics: str) -> list[dict]:
    """Everybody else (the model with references, peers) against the model alone, who is the first to judge.

    On the clips that both judged: each of `statistics` (names of `metrics.FIGURES`; r where none is given) of both,
    and their difference with its interval. Per set, dimension and judge, per clip and per condition.
    """
    judged: dict[tuple, dict] = {}  # group, dimension -> judge, ended -> clip -> judgement
    for j in judgements:
        if j["predicted"] is not None and j["true"] is not None:
            of_dim = judged.setdefault((j.get("set") or "all", j["dim"]), {})
            of_dim.setdefault((j.get("judge") or "", j.get("ended") or "single"), {})[j["clip"]] = j
    out = []
    for (group, dim), judges in sorted(judged.items(), key=lambda item: (item[0][0], ORDER.index(item[0][1]))):
        (_, first), *others = judges.items()
        for (judge, ended), other in others:
            about = {"group": group, "dim": dim, "judge": judge, "ended": ended}
            both = [(first[clip], other[clip]) for clip in first if clip in other]
            out += [about | found for found in _compared(both, statistics or ("r",))]
    return out


def _compared(both: list[tuple[dict, dict]], statistics: Sequence[str]) -> Iterator[dict]:
    model, other, true = (
        np.array(x, float) for x in ([a["predicted"] for a, _ in both], [b["predicted"] for _, b in both],
                                     [a["true"] for a, _ in both])
    )  # fmt: skip
    alone = [a for a, _ in both]
    names = _names(alone, "condition")
    levels = {"clip": (_clusters(alone) or range(len(both)), model, other, true)}
    if names and 2 < len(set(names)) < len(names):
        levels["condition"] = (sorted(set(names)), *by_condition(names, model, other, true))
    for level, (clusters, x, y, z) in levels.items():
        draws = resamples(clusters)
        for statistic in statistics if len(x) > 2 else ():
            figure = FIGURES[statistic]
            differences = [figure(y[at], z[at]) - figure(x[at], z[at]) for at in draws]
            found = {"model": figure(x, z), "other": figure(y, z), "difference": figure(y, z) - figure(x, z)}
            interval_95 = percentiles(differences)
            yield {"level": level, "n": len(x), "statistic": statistic, **found, "difference_95": interval_95}


def predictions(path: Path, ranks: bool = False) -> list[dict]:
    """Judgements from a CSV with `y_true` and `y_pred` (empty: the answer held no number), and where known `dim`,
    `task`, `set`, `condition`, `reference_uri`, `lang`, `judge`, `ended`, `std` and `votes`. The paper's released files
    are such, and what `written` gives. With `ranks` y_true may be on any scale. UsageError where the file is no such
    CSV."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    for name in ("y_true", "y_pred"):
        if name not in names:
            raise UsageError(f"{path} has no column {name!r}; it has {', '.join(names)}")

    if not rows:
        raise UsageError(f"{path} has no rows")

    def number(text: str | None, line: int) -> float | None:
        try:
            value = float(text) if text else None
        except ValueError:
            raise UsageError(f"{path}, line {line}: {text!r} is not a number") from None
        return value if value is not None and math.isfinite(value) else None

    out = []
    for line, row in enumerate(rows, 2):
        dim = row.get("dim") or "mos"
        if dim not in ORDER:
            raise UsageError(f"{path}, line {line}: dim is {dim!r}; it can be {', '.join(DIMENSIONS)}")
        known = ("task", "set", "condition", "reference_uri", "lang", "judge", "ended")
        judgement = {k: row.get(k) or None for k in known}
        judgement |= {"dim": dim, "clip": row.get("uri") or line, "status": row.get("status") or None}
        judgement |= {"predicted": number(row["y_pred"], line), "true": number(row["y_true"], line)}
        if not ranks and dim in DIMENSIONS and judgement["true"] is not None and not 1 <= judgement["true"] <= 5:
            raise UsageError(
                f"{path}, line {line}: y_true is {judgement['true']:g}, and ratings here are from 1 to 5"
                " (--ranks compares ranks on any scale)"
            )
        out.append(judgement | {k: number(row.get(k), line) for k in ("std", "votes")})
    return out


COLUMNS = (
    "uri", "judge", "ended", "dim", "y_pred", "y_true", "std", "votes", "set", "condition", "reference_uri", "lang",
    "error",
)  # fmt: skip


def written(judgements: Iterable[dict]) -> bytes:
    """Judgements as a CSV, one a line, that `predictions` reads again: to look at the worst, or to plot."""
    file = io.StringIO()
    out = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
    out.writeheader()
    out.writerows(j | {"y_pred": j["predicted"], "y_true": j["true"]} for j in judgements)
    return file.getvalue().encode()


def not_judged(judgements: Iterable[dict]) -> dict[str, int]:
    """How many recordings were not judged, and why: those alone, and those with their reference."""
    missed = {(j["clip"], j.get("judge"), j["ended"], j["error"]) for j in judgements if j.get("error")}
    whose = ((error, " ".join(filter(None, (judge, ended)))) for _, judge, ended, error in missed)
    return dict(Counter(f"{error} ({who})" for error, who in whose).most_common())


def without_votes(judgements: Iterable[dict]) -> int:
    """How many judgements have no vote to stand beside."""
    return sum(j["true"] is None for j in judgements)


def statuses(judgements: Iterable[dict]) -> dict[str, int]:
    """How many answers had a number, lacked a dimension, and so on, as the predictions say it."""
    return dict(Counter(j["status"] for j in judgements if j.get("status")).most_common())
