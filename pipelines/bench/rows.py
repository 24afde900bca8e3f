"""`sqllm bench rows`: what a run of up to a million recordings costs the driver, with a stand-in for the model.

The recordings are a few short files under many names (hard links), so that all that is measured is Ray and ours.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from pyarrow import parquet

FILES, PER_FOLDER = 64, 1000
CARRIED = ("east", "west")


class StandIn:
    """Scores without a model."""

    fingerprint = "stand-in"

    def score_chunks(self, chunks, profile=None, explain="never", until_se=None):
        return [{"mean": np.full((len(c.windows), 5), 3.0), "std": np.full((len(c.windows), 5), 0.5)} for c in chunks]


def load_stand_in(model: str, device: str, threads: int) -> StandIn:
    return StandIn()


def fingerprints(model: str) -> set[str]:
    return {StandIn.fingerprint}


def make(folder: Path, rows: int) -> Path:
    """A manifest of so many recordings of half a second."""
    t = np.arange(4000) / 8000
    rng = np.random.default_rng(0)
    originals = []
    for n in range(FILES):
        originals.append(folder / f"original-{n}.wav")
        soundfile.write(originals[-1], 0.1 * rng.standard_normal(len(t)) * (t % 0.2 < 0.12), 8000, subtype="ULAW")
    uris = []
    for first in range(0, rows, PER_FOLDER):
        place = folder / f"{first // PER_FOLDER:04d}"
        place.mkdir()
        for n in range(first, min(first + PER_FOLDER, rows)):
            uris.append(f"{place}/{n:07d}.wav")
            os.link(originals[n // 60_000], uris[-1])  # file systems allow about 65,000 names of a file
    table = pa.table({"uri": uris, "trunk": [CARRIED[n % len(CARRIED)] for n in range(rows)]})
    parquet.write_table(table, folder / "manifest.parquet")
    return folder / "manifest.parquet"


def measure(manifest: Path, out: Path) -> dict:
    """One run, in this process: seconds to plan and to score, and the driver's largest memory."""
    from pipelines.score import Settings, score
    from pipelines.sources import find

    before = _peak_mb()
    start = time.perf_counter()
    recordings = find([str(manifest)])
    planned = time.perf_counter()
    totals = score(recordings, out, Settings(device="cpu"), load_stand_in, fingerprints=fingerprints)
    return {
        "rows": totals.rows,
        "plan_s": planned - start,
        "run_s": time.perf_counter() - planned,
        "scoring_s": totals.scoring_s,
        "driver_mb": _peak_mb(),
        "of which imports": before,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(sizes: list[int]) -> None:
    """Print a table: each size scored in a fresh process, and then started again when it is finished."""
    from rich.console import Console
    from rich.table import Table

    table = Table("rows", "plan, s", "rows/s", "driver, MB", "again, s", "driver again, MB")
    for column in table.columns:
        column.justify = "right"
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            manifest = make(Path(folder), size)
            first, again = (_in_a_process(manifest, Path(folder) / "out") for _ in range(2))
        table.add_row(
            f"{size:,}",
            f"{first['plan_s']:.1f}",
            f"{size / first['scoring_s']:.0f}",
            f"{first['driver_mb']:.0f}",
            f"{again['plan_s'] + again['run_s']:.1f}",
            f"{again['driver_mb']:.0f}",
        )
    Console().print(table)


def _in_a_process(manifest: Path, out: Path) -> dict:
    command = [sys.executable, "-m", "pipelines.bench.rows", str(manifest), str(out)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))))
