"""What an earlier run has scored, so that it is not scored again: one look at `DIR/scores`, before any audio is read.

A row stands for good unless its source or its reference has changed (`etag`), or its failure may pass. Rows that do
not stand are taken out of their parts before their recordings are scored again, so that no reader meets two of them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from pipelines.sink import reopen, write_table
from sqllm import DIMENSIONS, storage
from sqllm.recording import recording_id

TRANSIENT = ("NOT_FOUND", "MODEL")  # all other codes would come again
AT_ONCE = 16  # parts: a store answers many readers as fast as one
COLUMNS = ("recording_id", "reference_uri", "etag", "status", "error_code", "duration_s", "model", *DIMENSIONS)


def parts(folder: str) -> list[str]:
    """The files of a partition, also where there is none."""
    return [file.uri for file in storage.below(folder) if file.uri.endswith(".parquet")]


def standing(folders: Sequence[str], recordings: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Which of the recordings need no more work (bool [n]), and the rows that they have.

    The rows are `COLUMNS` and `position`, of the recording in the table. Rows of recordings that are not asked for now
    stay where they are. OSError where a part cannot be read or written.
    """
    keys = _keys(recordings)
    found = [part for folder in folders for part in parts(folder)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        judged = dict(zip(found, threads.map(partial(_judged, recordings=recordings, keys=keys), found), strict=True))
    done = np.zeros(len(recordings), bool)
    if not judged:
        return done, pa.table({})
    table = pa.concat_tables(judged.values(), promote_options="permissive")
    stale = pc.unique(table.filter(table["stale"])["key"])
    table = table.filter(pc.invert(pc.is_in(table["key"], stale)))
    done[table["position"].to_numpy()] = True
    if not done.all():
        for folder in folders:
            reopen(folder)
    for part, rows in judged.items():
        if pc.any(pc.is_in(rows["key"], stale)).as_py():
            _take_out(part, stale)
    return done, table


def _judged(part: str, recordings: pa.Table, keys: pa.Array) -> pa.Table:
    """The rows of a part that belong to these recordings, with `stale` where they do not stand."""
    file = parquet.ParquetFile(storage.open_file(part))
    table = file.read([name for name in COLUMNS if name in file.schema_arrow.names])
    table = table.filter(pc.is_in(table["recording_id"], recordings["recording_id"]))
    table = table.append_column("key", _keys(table))
    table = table.append_column("position", pc.index_in(table["key"], keys))
    changed = pc.is_null(table["position"])  # it was scored with another reference
    if "etag" in table.column_names and "etag" in recordings.column_names:
        now = recordings["etag"].take(table["position"])
        changed = pc.or_(changed, pc.fill_null(pc.not_equal(table["etag"], now), False))
    passing = pc.fill_null(pc.is_in(table["error_code"], pa.array(TRANSIENT)), False)
    return table.append_column("stale", pc.or_(changed, passing))


def _take_out(part: str, stale: pa.Array) -> None:
    table = parquet.read_table(io.BytesIO(storage.read(part)))
    left = table.filter(pc.invert(pc.is_in(_keys(table), stale)))
    if len(left):
        write_table(part, left)
    else:
        storage.remove(part)


def _keys(table: pa.Table) -> pa.Array:
    """int64: a recording and what it is compared with."""
    ids = table["recording_id"].to_numpy().copy()
    references = table["reference_uri"]
    for at in np.flatnonzero(pc.is_valid(references).to_numpy()):
        ids[at] ^= recording_id(references[int(at)].as_py())
    return pa.array(ids)
