"""`sqllm evaluate`: a model, or anybody's predictions, against votes.

Recordings go through the same job as `sqllm score`, once alone and once with their reference where they have one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset

from pipelines.score import Settings, score
from pipelines.summary import Totals
from pipelines.tracking import tracked
from sqllm import DIMENSIONS
from sqllm.corpus import manifest
from sqllm.errors import UsageError
from sqllm.evaluation import report, tables
from sqllm.recording import recording_id


def corpora(paths: Sequence[str], columns: dict[str, str], only: dict[str, str], limit: int | None = None) -> pa.Table:
    """All rated recordings of the corpora for which each column of `only` has that value; UsageError where none has."""
    names = (*manifest.TEXT, *manifest.NUMBERS)
    read = [manifest.read(path, columns, only).select(names) for path in paths]
    table = pa.concat_tables(read).slice(0, limit)
    if not len(table):
        raise UsageError("no rated recording is left" + (" by --only" if only else ""))
    return table


def judge(
    rated: pa.Table, settings: Settings, watch: Callable[[str, Totals], None], load: Callable | None = None
) -> tuple[list[dict], Totals]:
    """Score all rated recordings, alone and with their references: judgements of each dimension and of its spread."""
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
    known, judgements = rated.to_pylist(), []
    for row in rows:
        if row["channel"]:
            raise UsageError(f"{known[row['clip']]['uri']}: a vote belongs to one channel, and this has more")
        vote = known[row["clip"]]
        ended = "single" if row["reference_uri"] is None else "double"
        used = row["status"] == "ok" and row["error_code"] != "REFERENCE"  # else it was not judged double-ended
        about = {"clip": row["clip"], "ended": ended, **{n: vote[n] for n in ("set", "condition", "lang")}}
        for name in [*DIMENSIONS, *(f"{d}_std" for d in DIMENSIONS)]:
            if vote[name] is not None:
                spread = {} if name.endswith("_std") else {"std": vote[f"{name}_std"], "votes": vote["votes"]}
                judgements.append(
                    {**about, "dim": name, "predicted": row[name] if used else None, "true": vote[name], **spread}
                )
    return judgements, totals


def write(out: Path, title: str, facts: dict[str, str], judgements: list[dict]) -> dict:
    """Figures into `out/evaluation.json`, `out/evaluation.html` and MLflow; returns what the JSON holds."""
    out.mkdir(parents=True, exist_ok=True)
    figures, gains = tables.figures(judgements), tables.differences(judgements)
    result = {"facts": facts, "figures": figures, "double_ended_gain": gains}
    if states := tables.statuses(judgements):
        result["answers"] = states
    _replace(out / "evaluation.json", json.dumps(_plain(result), indent=2, allow_nan=False) + "\n")
    _replace(out / "evaluation.html", report.page(title, facts, figures, judgements, gains))
    with tracked(out, title) as run:
        run.settings(facts)
        for f in figures:
            where = ".".join(filter(None, (f["group"], f["task"], f["ended"], f["dim"], f["level"])))
            run.figures({f"{where}.{k}": f[k] for k in ("n", "r", "rho", "rmse", "mae") if k in f})
        for name in ("evaluation.json", "evaluation.html"):
            run.file(out / name)
    return result


def _plain(value):
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def show(result: dict, console) -> None:
    """The figures as a table on a rich Console."""
    from rich import box
    from rich.table import Table

    for head, rows in (report.cells(result["figures"], brief=True), report.gain_cells(result["double_ended_gain"])):
        if not rows:
            continue
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for name in head:
            words = name in ("set", "task", "ended", "dim", "per")
            table.add_column(name, justify="left" if words else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if answers := result.get("answers"):
        console.print("answers: " + ", ".join(f"{n} {name}" for name, n in answers.items()), highlight=False)
