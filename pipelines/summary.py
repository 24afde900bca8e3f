"""What a run came to: counts while it goes on, `DIR/summary.json`, and the table that a person reads."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.results import SUMMARY, Results
from sqllm import DIMENSIONS, storage

SHOWN = 20  # rows of the table
COLOURS = ((2.5, "red"), (3.5, "yellow"), (5.1, "green"))


@dataclass
class Totals:
    """Counts over the rows that are there; nothing in it grows with their number."""

    recordings: int  # asked for
    profile: str | None = None
    done: int = 0
    failed: int = 0  # recordings with a failed row
    kept: int = 0  # recordings that an earlier run has scored
    kept_audio_s: float = 0.0
    partitions: list[str] = field(default_factory=list)  # of scores/: where the rows are
    rows: int = 0
    audio_s: float = 0.0  # of recordings, not of channels
    status: Counter = field(default_factory=Counter)
    codes: Counter = field(default_factory=Counter)
    sums: Counter = field(default_factory=Counter)
    model: str | None = None
    finished: bool = False
    started_at: float = field(default_factory=time.time)
    ready_at: float | None = None  # when the first model was loaded
    written_at: float = float("-inf")  # by a clock that is never set

    def add(self, rows: list[dict], ready_at: float) -> None:
        """Count all rows of one recording."""
        self.done += 1
        self.failed += any(row["status"] == "failed" for row in rows)
        self.rows += len(rows)
        self.audio_s += max(row.get("duration_s") or 0.0 for row in rows)
        self.model = rows[0]["model"]
        self.ready_at = min(ready_at, self.ready_at or ready_at)
        for row in rows:
            self.status[row["status"]] += 1
            if row.get("error_code"):
                self.codes[row["error_code"]] += 1
            if row["status"] == "ok":
                self.sums.update({name: row[name] for name in DIMENSIONS})

    def keep(self, rows: pa.Table) -> None:
        """Count the rows of `resume.standing`, which are not scored again."""
        failed = pc.cast(pc.equal(rows["status"], "failed"), pa.int8())
        each = rows.append_column("failed", failed).group_by("position")
        each = each.aggregate([("failed", "max"), ("duration_s", "max")])
        self.kept = len(each)
        self.kept_audio_s = pc.sum(each["duration_s_max"]).as_py() or 0.0
        self.done, self.rows = self.done + self.kept, self.rows + len(rows)
        self.failed += pc.sum(each["failed_max"]).as_py()
        self.audio_s += self.kept_audio_s
        for counter, name in ((self.status, "status"), (self.codes, "error_code")):
            counts = {pair["values"]: pair["counts"] for pair in pc.value_counts(rows[name]).to_pylist()}
            counter.update({value: count for value, count in counts.items() if value is not None})
        scored = rows.filter(pc.equal(rows["status"], "ok"))
        self.sums.update({name: pc.sum(scored[name]).as_py() or 0.0 for name in DIMENSIONS})
        self.model = rows["model"][0].as_py()

    @property
    def scoring_s(self) -> float:
        """Seconds since a model was ready: loading is left out, so that a short run shows the true speed."""
        return max(time.time() - self.ready_at, 1e-3) if self.ready_at else 0.0

    @property
    def times_real_time(self) -> float:
        return (self.audio_s - self.kept_audio_s) / self.scoring_s if self.ready_at else 0.0

    def as_dict(self) -> dict:
        """The content of `summary.json`."""
        scored = self.status["ok"]
        return {
            "finished": self.finished,
            "model": self.model,
            "profile": self.profile,
            "partitions": self.partitions,
            "recordings": self.recordings,
            "done": self.done,
            "kept": self.kept,
            "failed": self.failed,
            "rows": self.rows,
            "status": dict(self.status.most_common()),
            "error_codes": dict(self.codes.most_common()),
            # enough places that the table's one is not rounded from a rounded one: 3.3496, 3.35, 3.4
            "mean_scores": {name: round(self.sums[name] / scored, 6) if scored else None for name in DIMENSIONS},
            "hours": round(self.audio_s / 3600, 4),
            "elapsed_s": round(time.time() - self.started_at, 1),
            "scoring_s": round(self.scoring_s, 1),
            "times_real_time": round(self.times_real_time, 1),
            "recordings_per_s": round((self.done - self.kept) / self.scoring_s, 4) if self.ready_at else 0.0,
            "updated_at": round(time.time(), 1),
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started_at)),
        }


def write_summary(out: str | os.PathLike, totals: Totals, every_s: float = 0.0) -> None:
    """Replace `out/summary.json` in one step, unless that was done less than `every_s` ago."""
    if time.monotonic() - totals.written_at < every_s:
        return
    totals.written_at = time.monotonic()
    storage.write(storage.join(os.fspath(out), SUMMARY), (json.dumps(totals.as_dict(), indent=2) + "\n").encode())


def show(out: str | os.PathLike, console) -> None:
    """Print the worst recordings of a finished or half-finished run, and a line of totals.

    `console` is a rich Console. UsageError where `out` holds no run.
    """
    from pipelines.live import picture

    results = Results.open(out)
    summary = results.summary
    rows, more = _worst(results)
    if not rows and not summary["finished"]:
        console.print(picture(summary), highlight=False)
        return
    console.print(_table(rows, summary, console.width))
    if more:
        console.print(f"[dim]the {len(rows)} worst of {len(rows) + more} rows[/]")
    console.print(_totals(summary), highlight=False, soft_wrap=True)
    if not summary["finished"]:
        console.print(picture(summary), highlight=False)
    where = f"[dim]scores/ and {SUMMARY} are in[/] {out}[dim], model {summary['model']}[/]"
    console.print(where, highlight=False, soft_wrap=True)


def _worst(results: Results) -> tuple[list[dict], int]:
    """The rows to show and how many more there are: all of a small run by name, else those with the lowest mos."""
    names = ["uri", "channel", *DIMENSIONS, "worst_start_s", "worst_mos", "status", "error_code", "error_detail"]
    worst, rows = None, 0
    for _, batch in results.batches(names):
        rows += len(batch)
        worst = pa.concat_tables([pa.table(batch), *([worst] if worst else [])])
        if len(worst) > SHOWN:
            worst = worst.take(pc.select_k_unstable(worst, SHOWN, sort_keys=[("mos", "ascending")]))
    if rows > SHOWN:
        return worst.to_pylist(), rows - SHOWN
    return worst.sort_by([("uri", "ascending"), ("channel", "ascending")]).to_pylist() if worst else [], 0


def _table(rows: list[dict], summary: dict, width: int):
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names, states = _short_names([row["uri"] for row in rows]), [_status(row) for row in rows]
    free = max(30, width - 50)  # what the numbers leave to names and reasons
    longest_name, longest_state = max(map(len, [*names, "file"])), max(map(len, [*states, "status"]))
    state_width = min(longest_state, max(free // 2, free - longest_name))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("file", Text("mean", "dim"), width=min(longest_name, free - state_width))
    table.add_column("ch", justify="right", no_wrap=True)
    for name in DIMENSIONS:
        table.add_column(name, _score(summary["mean_scores"][name]), justify="right", no_wrap=True)
    table.add_column("worst moment", justify="right", no_wrap=True)
    table.add_column("status", width=state_width, no_wrap=True, overflow="ellipsis")
    for row, name, state in zip(rows, names, states, strict=True):
        moment = "" if row["worst_start_s"] is None else f"{clock(row['worst_start_s'])} ({row['worst_mos']:.1f})"
        channel = "" if row["channel"] is None else str(row["channel"])
        table.add_row(Text(name, overflow="fold"), channel, *(_score(row[d]) for d in DIMENSIONS), moment, state)
    return table


def _score(score: float | None):
    from rich.text import Text

    return Text("–", "dim") if score is None else Text(f"{score:.1f}", _colour(score))


def _status(row: dict):
    from rich.text import Text

    style = {"ok": "green", "skipped": "yellow"}.get(row["status"], "red")
    if row["error_code"] is None:
        return Text(row["status"], style)
    return Text.assemble((f"{row['status']} {row['error_code']}", style), (f" {row['error_detail'] or ''}", "dim"))


def _totals(summary: dict) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in summary["status"].items())
    codes = ", ".join(f"{count} {code}" for code, count in summary["error_codes"].items())
    return (
        f"[bold]{summary['done']}[/] of {summary['recordings']} recordings"
        + ("" if summary["finished"] else " [yellow](not finished)[/]")
        + (f" ({summary['kept']} of them by an earlier run)" if summary["kept"] else "")
        + f", {in_time(summary['hours'] * 3600)} of audio"
        + (f" at {summary['times_real_time']:.0f} x real time" if summary["kept"] < summary["done"] else "")
        + (f"; rows: {counts}" if counts else "")
        + (f" ({codes})" if codes else "")
    )


def _colour(score: float) -> str:
    return next(colour for limit, colour in COLOURS if score < limit)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def in_time(seconds: float) -> str:
    """Seconds as a person says them: 41 s, 3.5 min, 1.2 h."""
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= size)
    return f"{seconds / size:.1f} {unit}" if size else f"{seconds:.0f} s"


def _short_names(uris: list[str]) -> list[str]:
    """Names without the folder that all of them share."""
    if not all(uri.startswith("/") for uri in uris):
        return uris
    folders = {os.path.dirname(uri) for uri in uris}
    return [os.path.relpath(uri, os.path.commonpath(folders)) for uri in uris] if folders else []
