"""What an earlier run has scored, so that it is not scored again: one look at `DIR/scores`, before any audio is read.

A row stands for good unless its source has changed (`etag`), it has another reference now, its failure may pass, or
there are two of it. Rows that do not stand are taken out of their parts before their recordings are scored again, so
that no reader meets two of them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from pipelines.sink import reopen, write_table
from pipelines.sources import keys
from sqllm import DIMENSIONS, storage
from sqllm.errors import UsageError

TRANSIENT = ("NOT_FOUND", "MODEL")  # all other codes would come again,
UNREAD = "reference: NOT_FOUND"  # but for REFERENCE where its detail says so
AT_ONCE = 16  # parts: a store answers many readers as fast as one
COLUMNS = (
    *("recording_id", "reference_uri", "etag", "status", "error_code", "error_detail", "duration_s", "model"),
    *DIMENSIONS,
)
REPEATED = ["status", "error_code", "error_detail", "model"]


def parts(folder: str) -> list[str]:
    """The files of a partition, also where there is none."""
    return [file.uri for file in storage.below(folder) if file.uri.endswith(".parquet")]


def standing(folders: Sequence[str], recordings: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Which of the recordings need no more work (bool [n]), and the rows that they have.

    The rows are `COLUMNS` and `position`, of the recording in the table. Rows of recordings that are not asked for now
    stay where they are. OSError where a part cannot be read or written, UsageError where one is broken.
    """
    asked = _Asked(recordings)
    found = [part for folder in folders for part in parts(folder)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        judged = dict(zip(found, threads.map(partial(_judged, asked=asked), found), strict=True))
    done = np.zeros(len(recordings), bool)
    if not judged:
        return done, pa.table({})
    table = pa.concat_tables(judged.values(), promote_options="permissive")
    stale = pc.unique(pa.chunked_array([*table.filter(table["stale"])["key"].chunks, _twice(judged.values())]))
    table = table.filter(pc.invert(pc.is_in(table["key"], stale)))
    done[table["position"].to_numpy()] = True
    if not done.all():
        for folder in folders:
            reopen(folder)
    for part, rows in judged.items():
        if pc.any(pc.is_in(rows["key"], stale)).as_py():
            _take_out(part, stale)
    return done, table


def _twice(judged: Iterable[pa.Table]) -> pa.Array:
    """The keys that are in more than one part: two runs wrote at once, the first of which had stood still."""
    every = np.sort(np.concatenate([np.unique(rows["key"].to_numpy()) for rows in judged]))
    return pa.array(np.unique(every[1:][every[1:] == every[:-1]]))


class _Asked:
    """The recordings of a run, found by id and key without a copy of them for each part that is judged."""

    def __init__(self, recordings: pa.Table):
        self.ids = np.sort(recordings["recording_id"].to_numpy())
        made = keys(recordings)
        self.order = np.argsort(made, kind="stable")
        self.keys = made[self.order]
        self.etags = recordings["etag"] if "etag" in recordings.column_names else None

    def positions(self, wanted: np.ndarray) -> pa.Array:
        """Where in the recordings each key is, or null."""
        at, known = _search(self.keys, wanted)
        return pa.array(self.order[at], mask=~known)


def _search(values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in the sorted values each wanted one would be, and whether it is there."""
    at = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return at, values[at] == wanted


def _judged(part: str, asked: _Asked) -> pa.Table:
    """The rows of a part that belong to these recordings, with `stale` where they do not stand."""
    try:
        file = parquet.ParquetFile(storage.open_file(part), read_dictionary=REPEATED)
        table = file.read([name for name in COLUMNS if name in file.schema_arrow.names])
    except pa.ArrowException as error:
        raise UsageError(f"{part} is broken ({error}): remove it, and its recordings are scored again") from None
    table = table.filter(pa.array(_search(asked.ids, table["recording_id"].to_numpy())[1]))
    made = keys(table)
    table = table.append_column("key", pa.array(made)).append_column("position", asked.positions(made))
    changed = pc.is_null(table["position"])  # it was scored with another reference
    if "etag" in table.column_names and asked.etags is not None:
        now = asked.etags.take(table["position"])
        changed = pc.or_(changed, pc.fill_null(pc.not_equal(table["etag"], now), False))
    code, detail = (table[name].cast(pa.string()) for name in ("error_code", "error_detail"))
    unread = pc.and_(pc.equal(code, "REFERENCE"), pc.match_substring(detail, UNREAD))
    passing = pc.or_(pc.is_in(code, pa.array(TRANSIENT)), pc.fill_null(unread, False))
    judged = [name for name in ("recording_id", "reference_uri", "etag", "error_detail") if name in table.column_names]
    return table.append_column("stale", pc.or_(changed, passing)).drop_columns(judged)


def _take_out(part: str, stale: pa.Array) -> None:
    table = parquet.read_table(io.BytesIO(storage.read(part)))
    left = table.filter(pc.invert(pc.is_in(pa.array(keys(table)), stale)))
    if len(left):
        write_table(part, left)
    else:
        storage.remove(part)
