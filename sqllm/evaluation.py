"""How good a model is: against listeners' votes, and against faults of known strength.

    python -m sqllm.evaluation votes RATINGS.csv --file deg --score score --condition condition --only set=p835
    python -m sqllm.evaluation severity --speech DIR --speakers CSV [--conditions CONDITIONS.csv]
    python -m sqllm.evaluation words CORPUS

`votes` goes through `Predictor.score`, as a user would. `severity` degrades clean speech of speakers that training has
not heard (`simulate.is_val`) in five steps of one fault at a time. `words` asks about simulated clips of such speakers
and compares the answers with what was done to them.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from sqllm import DIMENSIONS
from sqllm.audio.degrade import Impairment, Sources, apply, to_level
from sqllm.audio.evidence import describe, measure
from sqllm.audio.io import to_int16
from sqllm.corpus.calibrate import parse
from sqllm.corpus.questions import FAULTS, SCALE, Clip, Dialogue, draw
from sqllm.corpus.simulate import Pool, speakers_of
from sqllm.errors import UsageError, run
from sqllm.predictor import Predictor
from sqllm.training.features import samples

SHUFFLES, RESAMPLES = 200, 2000
STEPS = {  # of each fault: the dimension it is about, and five values from none or little to severe
    "noise": ("noi", "snr_db", (40.0, 30.0, 20.0, 10.0, 0.0)),
    "band": ("col", "high_hz", (8000.0, 4000.0, 2500.0, 1600.0, 1000.0)),
    "loss": ("dis", "rate", (0.0, 0.03, 0.08, 0.18, 0.35)),
    "level": ("loud", "gain_db", (0.0, -8.0, -16.0, -24.0, -32.0)),
}
SINGLE = {"white": "noise", "noise": "noise", "treble": "band", "loss": "loss", "quiet": "level"}


def agreement(score: np.ndarray, truth: np.ndarray, condition: np.ndarray | None = None, seed: int = 1) -> dict:
    """n, MAE, RMSE, Pearson r with its 95 % bootstrap interval (clustered by condition) and Spearman rho."""
    rng = np.random.default_rng(seed)
    groups = np.arange(len(score)) if condition is None else np.unique(condition, return_inverse=True)[1]
    members = [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
    draws = []
    for _ in range(RESAMPLES):
        at = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        draws.append(np.corrcoef(score[at], truth[at])[0, 1])
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {
        "n": len(score),
        "mae": float(np.abs(score - truth).mean()),
        "rmse": float(np.sqrt(np.mean((score - truth) ** 2))),
        "r": float(stats.pearsonr(score, truth)[0]),
        "r_95": [float(low), float(high)],
        "rho": float(stats.spearmanr(score, truth)[0]),
    }


def votes(predictor: Predictor, args: argparse.Namespace) -> dict:
    """mos against votes, per clip and per condition.

    Swapping the audio among the clips swaps their scores, as a score depends on nothing else: `audio_shuffled_r` is
    the mean r over `SHUFFLES` such permutations.
    """
    with open(args.ratings, encoding="utf-8") as file:
        reader = csv.DictReader(file)
        wanted = [args.file, args.score, args.reference, args.condition, *(k for k, _ in args.only)]
        for name in wanted:
            if name and name not in (reader.fieldnames or ()):
                raise UsageError(f"{args.ratings} has no column {name!r}; it has {', '.join(reader.fieldnames or ())}")
        rows = [row for row in reader if all(row[k] == v for k, v in args.only)]
    if not rows:
        raise UsageError(f"no row of {args.ratings} is left by --only")
    root = args.ratings.parent
    references = [root / row[args.reference] for row in rows] if args.reference else None
    out = predictor.score([root / row[args.file] for row in rows], references)
    if len(out) != len(rows):
        raise UsageError("a vote belongs to one channel, and a recording here has more")
    scored = [(o["mos"], float(r[args.score]), r.get(args.condition)) for o, r in zip(out, rows, strict=True)]
    if sum(s[0] is not None for s in scored) < 3:
        raise UsageError(f"fewer than 3 of {len(rows)} recordings could be scored: {out[0]['error_detail']}")
    got, truth, condition = (np.array(x) for x in zip(*[s for s in scored if s[0] is not None], strict=True))
    rng = np.random.default_rng(1)
    shuffled = [np.corrcoef(got[rng.permutation(len(got))], truth)[0, 1] for _ in range(SHUFFLES)]
    result = {
        "unscored": len(rows) - len(got),
        "per_clip": agreement(got, truth, condition if args.condition else None),
    }
    if args.condition:
        names = np.unique(condition)
        means = np.array([[x[condition == name].mean() for name in names] for x in (got, truth)])
        result["per_condition"] = agreement(*means)
    return result | {"audio_shuffled_r": float(np.mean(shuffled))}


def _only(text: str) -> list[str]:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=VALUE")
    return text.split("=", 1)


def severity(predictor: Predictor, args: argparse.Namespace) -> dict:
    """Mean scores [5 steps, 5 dimensions] of each fault over unseen speakers."""
    pool = Pool(args.speech, args.noise, None, speakers_of(args.speakers))
    clean = {pool.speaker(name): pool.speech[name][:160_000] for name in pool.names["val"]}
    result: dict = {"speakers": len(clean), "faults": {}}
    for kind, (dimension, parameter, values) in STEPS.items():
        extra = {"noise": {"colour": "recorded"}, "loss": {"burst": 2.0}}.get(kind, {})
        means = []
        for value in values:
            windows = []
            for number, x in enumerate(clean.values()):
                rng = np.random.default_rng([3, number])
                chain = [Impairment(kind, {parameter: value, **extra})]
                windows.append(to_int16(apply(to_level(x), chain, rng, Sources(pool.noises["val"]))))
            means.append(predictor.score_windows(windows)[0][:, 0].mean(0))
        own = np.array(means)[:, DIMENSIONS.index(dimension)]
        result["faults"][kind] = {
            "parameter": parameter, "values": values, "dimension": dimension, "falls": bool((np.diff(own) < 0).all()),
            "scores": np.round(means, 2).tolist(),
        }  # fmt: skip
    return result


def words(predictor: Predictor, args: argparse.Namespace) -> dict:
    """Answers about simulated clips of unseen speakers, by task: share that agrees with the truth.

    Yes or no by the first word, the category by its word, "when" by its times; an explanation agrees where it names
    the fault that costs most. Clips without a fault are left out of explanations. `held_out`: wordings never trained.
    """
    shards = sorted(args.corpus.glob("clips-*.parquet"))
    rows = list(islice((row for path in shards for row in _val(path)), args.clips))
    if not rows:
        raise UsageError(f"no clips of the split val in {args.corpus}")
    right: dict[str, list[bool]] = {}
    for row in rows:
        rng = np.random.default_rng([5, row["index"]])
        window = to_int16(samples(row["audio"]))
        chain = [Impairment(s["kind"], s["params"], [tuple(x) for x in s["spans"]]) for s in json.loads(row["chain"])]
        truth, facts = {d: row[d] for d in DIMENSIONS}, measure(window)
        mean = predictor.score_windows([window]).mean[0, 0]
        for held_out in (False, True):
            d = draw(chain, truth, facts, rng, held_out)
            said = "".join(predictor.answer(mean, window, None, describe(facts), d.question)).partition(". ")[2]
            agreed = _agrees(d, said, Clip(chain, truth, facts, rng, False).faults)
            if args.verbose:
                print(f"{row['index']} {d.task} {'' if agreed else 'WRONG '}| {d.question} | {said} | {d.answer}")
            if agreed is not None:
                right.setdefault(f"{d.task}{', held_out' if held_out else ''}", []).append(agreed)
    return {task: {"n": len(ok), "agree": round(float(np.mean(ok)), 3)} for task, ok in sorted(right.items())}


def _val(path: Path) -> list[dict]:
    return [row for row in pq.read_table(path).to_pylist() if row["split"] == "val"]


def _agrees(asked: Dialogue, said: str, faults: list[str]) -> bool | None:
    if asked.task == "yes_no":
        return said[:2].lower() == asked.answer[:2].lower()
    if asked.task == "category":
        heard = [next((word for _, word in SCALE if word in text.lower()), "") for text in (said, asked.answer)]
        return heard[0] == heard[1]
    if asked.task == "when":
        tail = [re.sub(r"^[^0-9]*", "", text) or text for text in (said, asked.answer)]
        return tail[0] == tail[1]
    if asked.task == "explain" and faults:
        names = [re.sub(r"\{\w+\}", "", text).strip() for text in FAULTS[faults[0]][0]]
        return any(all(part in said.lower() for part in name.split("  ")) for name in names)
    return None


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sqllm.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true")
    commands = parser.add_subparsers(dest="command", required=True)
    a = commands.add_parser("votes")
    a.add_argument("ratings", type=Path, help="CSV; the files are relative to its folder")
    a.add_argument("--file", default="deg", help="column of the recordings")
    a.add_argument("--reference", help="column of the clean references: score double-ended")
    a.add_argument("--score", default="mos", help="column of the votes")
    a.add_argument("--condition", help="column of the condition, to resample by")
    a.add_argument("--only", action="append", default=[], type=_only, metavar="COLUMN=VALUE")
    b = commands.add_parser("severity")
    b.add_argument("--speech", required=True)
    b.add_argument("--noise")
    b.add_argument("--speakers", help="CSV with columns path and speaker")
    b.add_argument("--conditions", type=Path, help="human-rated conditions to print beside it")
    c = commands.add_parser("words")
    c.add_argument("corpus", type=Path, help="shards of sqllm.corpus.simulate")
    c.add_argument("--clips", type=int, default=100)
    c.add_argument("--verbose", action="store_true", help="print every question, answer and truth")
    args = parser.parse_args()
    predictor = Predictor.load(args.model, dtype=args.dtype)
    result = {"votes": votes, "severity": severity, "words": words}[args.command](predictor, args)
    if args.json or args.command != "severity":
        print(json.dumps(result, indent=2))
        return
    print(f"{result['speakers']} speakers that training has not heard; model {predictor.fingerprint}")
    rated = human(args.conditions) if args.conditions else []
    for kind, fault in result["faults"].items():
        falls = "falls at every step" if fault["falls"] else "DOES NOT FALL at every step"
        print(f"\n{kind}: {fault['dimension']} {falls}")
        print(f"{fault['parameter']:>34}  " + "".join(f"{d:>6}" for d in DIMENSIONS))
        for value, scores in zip(fault["values"], fault["scores"], strict=True):
            print(f"{value:>34g}  " + "".join(f"{s:6.2f}" for s in scores))
        for _, condition, scores in [x for x in rated if x[0] == kind]:
            print(f"{'people: ' + condition:>34}  " + "".join(f"{s:6.2f}" for s in scores))


if __name__ == "__main__":
    run(main)
