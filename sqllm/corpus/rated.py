"""Rated recordings (`sqllm.corpus.manifest`) as shards to train on.

Every recording is cut as it is for scoring (`sqllm.recording.cut`): decoded, its reference laid under it where that
fits with confidence, windows of up to 10 s; those with speech become clips that bear the recording's ratings.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sqllm import DIMENSIONS
from sqllm.corpus.manifest import NUMBERS, leakage
from sqllm.corpus.shards import flac
from sqllm.errors import UsageError
from sqllm.recording import cut

SHARD = 50  # recordings
VAL_SHARE = 0.1
SPLITS = ("train", "val", "test")
LEFT_OUT = "left_out"  # in the metadata of a shard: JSON
TEXT = ("uri", "set", "condition", "speaker", "split")
SCHEMA = pa.schema(
    [("index", pa.int64()), ("recording", pa.int64())]
    + [("audio", pa.binary()), ("reference", pa.binary()), ("paired", pa.bool_())]
    + [(name, pa.string()) for name in TEXT]
    + [(name, pa.float64()) for name in NUMBERS]
)


def rows(table: pa.Table) -> list[dict]:
    """What of a manifest is trained on and validated with; the split test is left out.

    A manifest without the split val is divided here. UsageError where that cannot be, or where it leaks.
    """
    known = [row for row in table.to_pylist() if any(row[d] is not None for d in DIMENSIONS)]
    if unknown := {row["split"] for row in known} - {None, *SPLITS}:
        raise UsageError(f"the column split says {min(unknown)!r}; it can be {', '.join(SPLITS)}, or empty")
    if not any(row["split"] == "val" for row in known):
        known = _divided(known)
    if shared := leakage(known):
        raise UsageError(f"the corpus would be judged by what it trains on: {shared}")
    return [row for row in known if row["split"] in ("train", "val")]


def _divided(known: list[dict]) -> list[dict]:
    """About a tenth of what is for training becomes val: whole groups that share neither speaker nor condition."""
    free = [row for row in known if row["split"] in (None, "train")]
    names: dict[tuple, int] = {}
    links = []  # a recording and each of its names
    for i, row in enumerate(free):
        condition = ("condition", row["set"], row["condition"])
        for name in (("uri", row["uri"]), ("speaker", row["speaker"]), condition):
            if name[-1] is not None:
                links.append((i, len(free) + names.setdefault(name, len(names))))
    size, (a, b) = len(free) + len(names), np.array(links, int).reshape(-1, 2).T
    _, group = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(size, size)), directed=False)
    group = group[: len(free)]

    def order(g: int) -> bytes:  # by chance, and the same in every run
        return hashlib.sha256(min(free[i]["uri"] for i in np.flatnonzero(group == g)).encode()).digest()

    wanted, kept, val = VAL_SHARE * len(free), 0, set()
    sizes = {g: int((group == g).sum()) for g in set(group.tolist())}
    groups = sorted(sizes, key=order)
    for g in groups:
        if kept < wanted and sizes[g] <= 2 * wanted:
            val.add(g)
            kept += sizes[g]
    if len(groups) > 1 and not val:  # all are large
        val = {min(groups, key=sizes.__getitem__)}
    if not 0 < len(val) < len(groups):
        raise UsageError(
            "no part of the corpus can be kept for validation: its recordings hang together by speaker and condition. "
            "Give a column `split` with train and val, and rows that share neither"
        )
    parts = {id(row): "val" if g in val else "train" for row, g in zip(free, group, strict=True)}
    return [row | {"split": parts.get(id(row), row["split"])} for row in known]


def key(known: Sequence[dict]) -> str:
    """Eight hexadecimal digits of the recordings (their names, sizes and times of change) and ratings."""
    seen = [[row[name] for name in (*TEXT, "reference_uri", *NUMBERS)] for row in known]
    for row in known:
        if os.path.isfile(row["uri"]):
            found = os.stat(row["uri"])
            seen.append([found.st_size, found.st_mtime_ns])
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:8]


def shards(known: Sequence[dict]) -> list[tuple[str, list[dict]]]:
    """The name of each shard, and its recordings."""
    numbered = [row | {"recording": i} for i, row in enumerate(known)]
    return [(f"clips-{i // SHARD:05d}.parquet", numbered[i : i + SHARD]) for i in range(0, len(numbered), SHARD)]


def table(recordings: Sequence[dict]) -> pa.Table:
    """A shard, whose metadata say what was wrong with recordings or references that are left out of it."""
    clips, problems = [], []
    for row in recordings:
        found, problem = _windows(row["uri"], row["reference_uri"])
        if problem:
            problems.append(f"{'the reference of ' if found else ''}{row['uri']}: {problem}")
        for number, (window, reference) in enumerate(found):
            about = {name: row[name] for name in ("recording", *TEXT, *NUMBERS)}
            about |= {"index": 1000 * row["recording"] + number, "audio": flac(window)}
            paired = reference is not None
            clips.append(about | {"reference": flac(reference) if paired else None, "paired": paired})
    return pa.Table.from_pylist(clips, SCHEMA).replace_schema_metadata({LEFT_OUT: json.dumps(problems)})


def _windows(uri: str, reference: str | None) -> tuple[list[tuple[np.ndarray, np.ndarray | None]], str | None]:
    """The windows with speech, int16, with what of the reference lies under them; and what is wrong."""
    out, problem = [], None
    for chunk in cut(uri, reference):
        if chunk.channel:
            return [], "a rating belongs to one channel, and this has more"
        if chunk.row and chunk.row["error_code"]:
            problem = f"{chunk.row['error_code']}, {chunk.row['error_detail']}"
            if chunk.row["status"] != "ok":
                return [], problem
        out += [(chunk.windows[i], chunk.references and chunk.references[i]) for i in chunk.counts]
    return out, problem
