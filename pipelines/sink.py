"""Rows -> `DIR/scores/part-*.parquet`. A part appears whole or not at all, so a reader never meets half a file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from sqllm import DIMENSIONS
from sqllm.recording import ROW_FIELDS

PART_ROWS, PART_S = 20_000, 60.0  # a part is closed at whichever comes first: a run that is cut off loses a minute
NEXT_TO = ".{}.tmp"  # readers of Parquet folders pass over names with a dot in front

TEXT = ("uri", "reference_uri", "status", "error_code", "error_detail", "explanation", "profile", "model")
SPAN = [("start_s", pa.float64()), ("end_s", pa.float64())]
TYPES = {  # all others are scores and seconds: float32
    **dict.fromkeys(TEXT, pa.string()),
    "recording_id": pa.int64(),
    "channel": pa.int32(),
    "duration_s": pa.float64(),
    "speech_s": pa.float64(),
    "worst_start_s": pa.float64(),
    "scored_at": pa.timestamp("us", tz="UTC"),
    "windows": pa.list_(pa.struct([*SPAN, *((name, pa.float32()) for name in DIMENSIONS)])),
    "evidence": pa.struct(
        [
            *((name, pa.float32()) for name in ("level_db", "activity", "snr_db", "band_low_hz", "band_high_hz")),
            *((name, pa.float32()) for name in ("clipped_pct", "dropout_pct")),
            ("dropouts", pa.list_(pa.struct(SPAN))),
        ]
    ),
    "alignment": pa.struct(
        [
            *((name, pa.float64()) for name in ("delay_s", "drift_ppm", "confidence")),
            ("used", pa.bool_()),
        ]
    ),
}


class Sink:
    """Collects rows and writes them as numbered parts; the scores of an earlier run in the same folder are replaced."""

    def __init__(self, folder: Path, schema: pa.Schema):
        self.folder, self.schema = folder, schema
        self.rows: list[dict] = []
        self.parts = 0
        self.flushed = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("part-*.parquet"), *folder.glob(NEXT_TO.format("part-*"))):
            old.unlink()

    def write(self, rows: list[dict]) -> bool:
        """Take rows; True when a part was written."""
        self.rows += rows
        if len(self.rows) < PART_ROWS and time.monotonic() - self.flushed < PART_S:
            return False
        return self.flush()

    def flush(self) -> bool:
        """Write what was collected; True when there was something."""
        self.flushed = time.monotonic()
        if not self.rows:
            return False
        part = self.folder / f"part-{self.parts:05d}.parquet"
        temporary = part.with_name(NEXT_TO.format(part.name))
        parquet.write_table(pa.Table.from_pylist(self.rows, schema=self.schema), temporary, compression="zstd")
        os.replace(temporary, part)
        self.rows, self.parts = [], self.parts + 1
        return True


def row_schema(carried: pa.Schema) -> pa.Schema:
    """The columns of a score row, then those carried from the manifest. All-null columns keep their types."""
    return pa.schema([*((name, TYPES.get(name, pa.float32())) for name in ROW_FIELDS), *carried])
