"""`sqllm pack`: loose recordings into Parquet shards (`sqllm.audio.packed`), on Ray.

Millions of small objects take longer to list and to fetch than to score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile

import pyarrow as pa
import ray
from pyarrow import parquet

from pipelines.cluster import start_ray
from sqllm import storage
from sqllm.audio.io import open_bytes
from sqllm.errors import AudioError

WORKING = ("recording_id", "reference_uri", "size", "etag", "name", "uri")
GROUP_BYTES = 16 << 20  # of a row group: what is fetched to get at one recording


def pack(
    recordings: pa.Table, out: str, shard_bytes: int, verbose: bool = False,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> Counter:  # fmt: skip
    """Write the table of `sources.find`, which may have a `size`, into `out/part-00000.parquet`, ...

    Recordings keep their order, and their names below the folder that all share. Returns counts of "recordings",
    "shards", "bytes" and "unread": those are in a shard without audio, and score as NOT_FOUND.
    """
    uris = recordings["uri"].to_pylist()
    folders = [uri.split("/")[:-1] for uri in uris]
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False))
    start = sum(len(name) + 1 for name, _ in shared)
    recordings = recordings.append_column("name", pa.array([uri[start:] for uri in uris]))
    shards = list(_shards(recordings, shard_bytes))
    start_ray(verbose)
    write = ray.remote(num_cpus=1)(_write)
    tasks = [write.remote(shard, f"{out.rstrip('/')}/part-{n:05d}.parquet") for n, shard in enumerate(shards)]
    counts: Counter = Counter(shards=len(tasks))
    while tasks:
        done, tasks = ray.wait(tasks)
        counts.update(ray.get(done[0]))
        watch(counts["recordings"], recordings.num_rows)
    return counts


def _shards(recordings: pa.Table, shard_bytes: int) -> Iterator[pa.Table]:
    """Slices of about `shard_bytes`. Where sizes are not known, a recording counts as a megabyte."""
    known = recordings["size"].to_pylist() if "size" in recordings.column_names else [None] * len(recordings)
    start, held = 0, 0
    for at, size in enumerate(known):
        size = 1 << 20 if size is None else size
        if held and held + size > shard_bytes:
            yield recordings.slice(start, at - start)
            start, held = at, 0
        held += size
    yield recordings.slice(start)


def _write(recordings: pa.Table, shard: str) -> Counter:
    counts: Counter = Counter()
    sink = pa.BufferOutputStream()
    carried = recordings.drop_columns([c for c in WORKING if c in recordings.column_names])
    paired = recordings["reference_uri"].null_count < len(recordings)
    fields = [pa.field("uri", pa.string()), pa.field("audio", pa.binary())]
    fields += [pa.field("reference", pa.binary())] * paired
    schema = pa.schema([*fields, *carried.schema])
    with parquet.ParquetWriter(sink, schema, compression="none") as writer:  # audio does not shrink
        group, held = [], 0
        for row, rest in zip(recordings.to_pylist(), carried.to_pylist(), strict=True):
            row_out = rest | {"uri": row["name"], "audio": _bytes(row["uri"], counts)}
            if paired:
                row_out["reference"] = _bytes(row["reference_uri"], counts)
            group.append(row_out)
            held += sum(len(row_out.get(c) or b"") for c in ("audio", "reference"))
            if held >= GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group, held = [], 0
        writer.write_table(pa.Table.from_pylist(group, schema))
    storage.write(shard, sink.getvalue())
    return counts + Counter(recordings=len(recordings))


def _bytes(uri: str | None, counts: Counter) -> bytes | None:
    if uri is None:
        return None
    try:
        with open_bytes(uri) as file:
            content = file.read()
    except AudioError:
        counts["unread"] += 1
        return None
    counts["bytes"] += len(content)
    return content
