"""`report.html`: what a run found, in one file for somebody who does not know what MOS means."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.report.clips import clips
from pipelines.report.comparison import compare
from pipelines.report.gather import MOST_VALUES, Gathered, gather
from pipelines.report.page import write_page
from pipelines.results import Results
from sqllm import storage
from sqllm.errors import UsageError
from sqllm.recording import in_words

REPORT = "report.html"
WORST = 10  # recordings that are shown one by one
FEW = 24  # values that a column may have to be shown though nobody asked for it
Place = str | os.PathLike


@dataclass
class Report:
    place: str
    text: str  # HTML
    found: Gathered


def write(out: Place, by: Sequence[str] = (), baseline: Place | None = None, audio: bool = True) -> Report:
    """Write `out/report.html` of the run in `out`, by the carried columns `by` (none: by those of few values).

    `baseline` is the `out` of an earlier run to compare with; `audio` False leaves the voices out. UsageError where one
    of the two has no scores, or where there is no column of that name.
    """
    results = Results.open(out)
    earlier = None if baseline is None else Results.open(baseline)
    columns = _columns(results, by)
    found = gather(results, columns, WORST)
    found.groups = [group for group in found.groups if by or 1 < len(group.values) <= FEW]
    for group in found.groups:
        if group.too_many:
            raise UsageError(f"--by {group.column}: it has more than {MOST_VALUES} values; give one with fewer")
    place = storage.join(results.out, REPORT)
    shown = [group.column for group in found.groups]
    compared = compare(results, earlier, found.recordings, shown) if earlier else None
    report = Report(place, write_page(results, found, clips(results, found.worst), compared, audio), found)
    storage.write(place, report.text.encode())
    return report


def attempt(out: Place, by: Sequence[str] = (), baseline: Place | None = None, audio: bool = True) -> Report | None:
    """`write` at the end of a run, which no fault of the report spoils."""
    try:
        report = write(out, by, baseline, audio)
    except Exception as error:
        print(f"sqllm: no report: {in_words(error)}; `sqllm report {out}` tries again", file=sys.stderr)
        return None
    print(f"report: {report.place}")
    return report


def _columns(results: Results, by: Sequence[str]) -> list[str]:
    for name in by:
        if name not in results.carried:
            raise UsageError(f"--by {name}: the manifest of this run had no such column; it had "
                             f"{', '.join(results.carried) or 'none beside uri'}")  # fmt: skip
    return list(by) or [name for name in results.carried if _groups(results.data.schema.field(name).type)]


def _groups(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
