"""Rows -> `DIR/scores/fingerprint=.../part-*.parquet`, here or on s3://.

A part appears whole or not at all, so a reader never meets half a file; `_SUCCESS` beside them closes a run.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from sqllm import DIMENSIONS, storage
from sqllm.errors import UsageError
from sqllm.recording import ROW_FIELDS

PART_ROWS, PART_S = 20_000, 60.0  # a part is closed at whichever comes first: a run that is cut off loses a minute
SUCCESS = "_SUCCESS"

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
    """Collects the rows of one partition and writes them as parts. Each run's parts have names of their own, and one
    that is written again after a failure replaces itself."""

    def __init__(self, folder: str, schema: pa.Schema):
        self.folder, self.schema = str(folder), schema
        self.run = uuid.uuid4().hex[:8]
        self.rows: list[dict] = []
        self.parts = 0
        self.flushed = time.monotonic()

    def write(self, rows: list[dict]) -> None:
        """Take all rows of a recording."""
        self.rows += rows
        if len(self.rows) >= PART_ROWS or time.monotonic() - self.flushed >= PART_S:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        self.flushed = time.monotonic()
        if not self.rows:
            return
        name = f"part-{self.run}-{self.parts:05d}.parquet"
        write_table(storage.join(self.folder, name), pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.parts = [], self.parts + 1


def reopen(folder: str) -> None:
    """What a closed run left in a partition, and what a killed one left half, goes before there are other rows."""
    if storage.stat(closed := storage.join(folder, SUCCESS)):
        storage.remove(closed)
    if not storage.is_remote(folder):
        for half in Path(storage.local(folder)).glob(".part-*.tmp"):
            half.unlink()


def commit(folder: str, counts: dict) -> None:
    """Write the file that closes a run: there are no more rows to come."""
    storage.write(storage.join(folder, SUCCESS), (json.dumps(counts, indent=2) + "\n").encode())


@contextmanager
def writing(out: str) -> Iterator[None]:
    """A disk that is full, or a store that says no, is told in words."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UsageError(
            f"cannot write to --out {out}: {why}. What is there stays: the same command goes on from it"
        ) from None


def write_table(uri: str, table: pa.Table) -> None:
    content = pa.BufferOutputStream()
    parquet.write_table(table, content, compression="zstd")
    storage.write(uri, content.getvalue())


def row_schema(carried: pa.Schema) -> pa.Schema:
    """The columns of a score row, then those carried from the manifest. All-null columns keep their types."""
    return pa.schema([*((name, TYPES.get(name, pa.float32())) for name in ROW_FIELDS), *carried])
