"""What MLflow remembers of `sqllm score`: settings, counts, throughput, the spread of the scores, the report."""

from __future__ import annotations

import time
from dataclasses import asdict

from pipelines.report import Report
from pipelines.report.charts import distributions
from pipelines.summary import Totals
from pipelines.tracking import Later

EVERY_S = 60.0


class Remembered:
    """`update` is told of progress, as `score(watch=...)` is; `end` of the whole. Without a run they do nothing."""

    def __init__(self, run: Later | None, settings, sources: list[str]):
        self.run, self.params = run, asdict(settings) | {"source": " ".join(sources)}
        self.told = 0.0

    def update(self, stage: str, totals: Totals) -> None:
        if self.run is None or stage not in ("loading the model", "scoring"):
            return
        if self.params:
            self.run("settings", self.params)
            self.params = None
        if stage == "scoring" and not self.told:
            self.run("settings", {"fingerprint": totals.model})
        if stage == "scoring" and time.monotonic() - self.told > EVERY_S:
            self.told = time.monotonic()
            self.run("figures", counts(totals), totals.done)

    def end(self, totals: Totals, report: Report | None) -> None:
        if self.run is None or self.params:  # nothing was scored that an earlier run had not
            return
        self.run("figures", counts(totals) | scores(report), totals.done)
        if report:
            self.run("figure", distributions(report.found.histograms), "scores.png")
            self.run("text", report.text, "report.html")


def counts(totals: Totals) -> dict[str, float]:
    summary = totals.as_dict()
    names = ("recordings", "done", "kept", "failed", "rows", "hours", "elapsed_s", "scoring_s", "times_real_time",
             "recordings_per_s")  # fmt: skip
    rows = {f"rows_{kind}": count for kinds in (totals.status, totals.codes) for kind, count in kinds.items()}
    return {name: summary[name] for name in names} | rows


def scores(report: Report | None) -> dict[str, float]:
    """Means of the scores, and the rates of the report, over all rows."""
    if report is None or not report.found.rows:
        return {}
    overall = report.found.overall
    return {name: overall.of(None, name)[1] for name in overall.names}
