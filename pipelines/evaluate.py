"""`sqllm evaluate`: a model, or anybody's predictions, against votes.

Recordings go through the same job as `sqllm score`, once alone and once with their reference where they have one.
Peers (`sqllm.evaluation.peers`) hear the same recordings beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray
from pyarrow import dataset

from pipelines.cluster import Pool, start_ray
from pipelines.score import Settings, score
from pipelines.summary import Totals
from pipelines.tracking import tracked
from sqllm import DIMENSIONS, storage
from sqllm.audio.io import open_sound
from sqllm.corpus import manifest
from sqllm.errors import AudioError, UsageError
from sqllm.evaluation import report, tables
from sqllm.evaluation.peers import Peers
from sqllm.recording import recording_id


def corpora(
    paths: Sequence[str], columns: dict[str, str], only: dict[str, str], limit: int | None = None, ranks: bool = False
) -> pa.Table:
    """All rated recordings of the corpora for which each column of `only` has that value; UsageError where none has.
    With `ranks` ratings may be on any scale. Of several corpora, each that names no `set` is one of its own."""
    names = (*manifest.TEXT, *manifest.NUMBERS)
    read = [manifest.read(path, columns, only, ranks).select(names) for path in paths]
    if len(paths) > 1:
        at = names.index("set")
        read = [t.set_column(at, "set", t["set"].fill_null(str(path))) for t, path in zip(read, paths, strict=True)]
    table = pa.concat_tables(read).slice(0, limit)
    if not len(table):
        raise UsageError("no rated recording is left" + (" by --only" if only else ""))
    return table


def judge(
    rated: pa.Table, settings: Settings, watch: Callable[[str, Totals], None], load: Callable | None = None
) -> tuple[list[dict], Totals]:
    """Score all rated recordings, alone and with their references: judgements of each dimension and of its spread,
    those of the recordings alone first."""
    clips = pa.array(range(len(rated)), pa.int64())
    alone = pa.table({"uri": rated["uri"], "reference_uri": pa.nulls(len(rated), pa.string()), "clip": clips})
    paired = pa.table({"uri": rated["uri"], "reference_uri": rated["reference_uri"], "clip": clips})
    recordings = pa.concat_tables([alone, paired.filter(pc.is_valid(paired["reference_uri"]))])
    recordings = recordings.append_column("recording_id", pa.array(map(recording_id, recordings["uri"].to_pylist())))
    with tempfile.TemporaryDirectory() as folder:
        totals = score(recordings, Path(folder), settings, watch=watch, **({"load": load} if load else {}))
        names = ["clip", "channel", "reference_uri", "status", "error_code", *DIMENSIONS]
        names += [f"{d}_std" for d in DIMENSIONS]
        rows = dataset.dataset(Path(folder) / "scores", format="parquet").to_table(columns=names).to_pylist()
    votes, judgements = _votes(rated), []
    stereo = {row["clip"] for row in rows if row["channel"]}
    if stereo:
        uri = votes[min(stereo)]["uri"]
        print(f"sqllm: left out: {uri} (a vote belongs to one channel), {len(stereo)} in all", file=sys.stderr)
    for row in sorted(rows, key=lambda row: (row["reference_uri"] is not None, row["clip"])):
        if row["channel"]:
            continue
        ended = "single" if row["reference_uri"] is None else "double"
        used = row["status"] == "ok" and row["error_code"] != "REFERENCE"  # else it was not judged double-ended
        used = used and row["clip"] not in stereo
        for name in [*DIMENSIONS, *(f"{d}_std" for d in DIMENSIONS)]:
            judgement = {"ended": ended, "dim": name, "predicted": row[name] if used else None}
            judgement["error"] = None if used else row["error_code"] or "STEREO"
            judgements += _beside(votes[row["clip"]], row["clip"], [judgement])
    return judgements, totals


def judge_by_peers(rated: pa.Table, peers: Sequence[str], settings: Settings) -> list[dict]:
    """What other measures say of the same recordings, as judgements."""
    start_ray(settings.verbose)
    pool = Pool.fit(len(rated), settings.actors, "cpu")
    table = rated.select(["uri", "reference_uri"]).append_column("clip", pa.array(range(len(rated))))
    size = max(1, min(8, len(table) // (4 * pool.actors)))
    rows = (
        ray.data.from_arrow([table.slice(start, size) for start in range(0, len(table), size)])
        .map_batches(
            Rater,
            fn_constructor_args=(tuple(peers), pool.threads, settings.level),
            compute=ray.data.ActorPoolStrategy(size=pool.actors),
            num_cpus=pool.cpus,
            batch_format="pyarrow",
        )
        .take_all()
    )
    votes = _votes(rated)
    rows = sorted(rows, key=lambda row: (peers.index(row["judge"]), row["clip"]))
    return [j for row in rows for j in _beside(votes[row["clip"]], row["clip"], [row])]


class Rater:
    """The actor that hears with the peers."""

    def __init__(self, peers: Sequence[str], threads: int, level_db: float | None):
        import torch

        torch.set_num_threads(threads)
        self.peers = Peers(peers, level_db)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [
            {"clip": row["clip"], **rating}
            for row in batch.to_pylist()
            for rating in self.peers.rate(row["uri"], row["reference_uri"])
        ]
        fields = {"clip": pa.int64(), "judge": pa.string(), "ended": pa.string(), "dim": pa.string()}
        return pa.Table.from_pylist(rows, pa.schema(fields | {"predicted": pa.float64()}))


def _votes(rated: pa.Table) -> list[dict]:
    """The rows of the table, with the sampling rate of each file in kHz."""

    def rate(uri: str) -> str | None:
        try:
            with open_sound(uri) as sound:
                return f"{sound.rate / 1000:g} kHz"
        except AudioError:
            return None

    return [row | {"rate": rate(row["uri"])} for row in rated.to_pylist()]


def _beside(vote: dict, clip: int, judgements: list[dict]) -> list[dict]:
    """Those judgements for which there are votes, beside them."""
    names = ("uri", "reference_uri", "set", "condition", "lang", "rate")
    about = {"clip": clip, **{name: vote[name] for name in names}}
    return [
        j | about | {"true": vote[j["dim"]], "std": vote.get(f"{j['dim']}_std"), "votes": vote["votes"]}
        for j in judgements
        if vote[j["dim"]] is not None
    ]


def write(out: Path, title: str, facts: dict[str, str], judgements: list[dict], ranks: bool = False) -> dict:
    """Figures into `out/evaluation.json`, `out/evaluation.html` and MLflow, each judgement into `out/judgements.csv`
    where recordings were judged; returns what the JSON holds."""
    out.mkdir(parents=True, exist_ok=True)
    figures = tables.figures(judgements, ranks)
    compared = tables.comparisons(judgements, *(["rho"] if ranks else ["r", "rmse"]))
    result = {"facts": facts, "figures": figures, "beside_the_model_alone": compared}
    if states := tables.statuses(judgements):
        result["answers"] = states
    if unvoted := tables.without_votes(judgements):
        result["without_votes"] = unvoted
    if missed := tables.not_judged(judgements):
        result["not_judged"] = missed
    files = ["evaluation.json", "evaluation.html"]
    if any("uri" in j for j in judgements):
        storage.write(str(out / "judgements.csv"), tables.written(judgements))
        files.append("judgements.csv")
    storage.write(str(out / "evaluation.json"), (json.dumps(_plain(result), indent=2, allow_nan=False) + "\n").encode())
    storage.write(str(out / "evaluation.html"), report.page(title, facts, figures, judgements, compared).encode())
    with tracked(out, title) as run:
        run.settings(facts)
        for f in figures:
            where = ".".join(filter(None, (f["group"], f["task"], f["judge"], f["ended"], f["dim"], f["level"])))
            run.figures({f"{where}.{k}": f[k] for k in ("n", "r", "rho", "rmse", "mae") if k in f})
        for name in files:
            run.file(out / name)
    return result


def _plain(value):
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def show(result: dict, console) -> None:
    """The figures as a table on a rich Console."""
    compared = report.comparison_cells(result["beside_the_model_alone"])
    for head, rows in (report.cells(result["figures"], brief=True), compared):
        if rows:
            console.print(report.terminal(head, rows))
    if missed := result.get("not_judged"):
        told = ", ".join(f"{n} {why}" for why, n in missed.items())
        console.print(f"not judged: {told}; judgements.csv has which", highlight=False)
    if unvoted := result.get("without_votes"):
        console.print(f"left out: {unvoted} without y_true", highlight=False)
    if answers := result.get("answers"):
        console.print("answers: " + ", ".join(f"{n} {name}" for name, n in answers.items()), highlight=False)
