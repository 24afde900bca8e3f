"""Recordings packed into shards: small files by the million are slow to list and to fetch.

A recording in a shard has a URI like any other: that of the shard, a slash, and its name there.

- Parquet: columns `audio` (the bytes of the file; or a struct with a field `bytes`, as Hugging Face datasets have it),
  `uri`, optionally `reference` (bytes); other columns are carried into the scores. The reference of a recording is its
  URI and `#reference`.
- Tar (WebDataset): files of the same name up to the first dot belong together: `call-1.wav`, `call-1.reference.wav` and
  `call-1.json`, whose values are carried into the scores.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
from pyarrow import parquet

from sqllm import storage
from sqllm.errors import AudioError, UsageError

REFERENCE = "#reference"
ENDS = re.compile(r"\.(?:tar|parquet)(?=/.)", re.IGNORECASE | re.DOTALL)
HIDDEN = re.compile(r"(^|/)\.(?!\.?/)")  # a part of the name begins with a dot, and is not . or ..
BATCH = 16  # rows of a Parquet shard that are read at a time
HELD = 4  # shards whose table of contents a process keeps


def split(uri: str) -> tuple[str, str] | None:
    """The shard and the name of a recording in it; None for any other recording."""
    ends = [found.end() for found in ENDS.finditer(uri)]
    if storage.is_remote(uri):
        shard = next((uri[:end] for end in ends[:-1] if _is_file(uri[:end])), uri[: ends[-1]] if ends else None)
    else:  # a folder may be called so
        shard = next((uri[:end] for end in ends if not os.path.isdir(storage.local(uri[:end]))), None)
    return shard and (shard, uri[len(shard) + 1 :])


@lru_cache(256)
def _is_file(uri: str) -> bool:
    return storage.info(uri)[0] == "file"


def is_shard(uri: str) -> bool:
    """Whether a file holds recordings; a Parquet file without audio is a manifest. OSError where it cannot be read."""
    if uri.lower().endswith(".tar"):
        return True
    if not uri.lower().endswith(".parquet"):
        return False
    with storage.open_file(uri) as file, _broken(uri):
        return "audio" in parquet.read_schema(file).names


def read(shard: str, name: str) -> bytes:
    """The bytes of a recording. AudioError NOT_FOUND where the shard or the recording is not there."""
    try:
        with storage.open_file(shard) as file:
            contents = _contents(shard, _version(file))
            if name not in contents:
                raise AudioError("NOT_FOUND", f"no {name} in {shard}")
            if shard.lower().endswith(".tar"):
                offset, size = contents[name]
                file.seek(offset)
                return file.read(size)
            column = "reference" if name.endswith(REFERENCE) else "audio"
            with _broken(shard):
                content = _cell(parquet.ParquetFile(file), *contents[name], column)
    except UsageError as error:
        raise AudioError("DECODE", str(error)) from None
    except OSError as error:
        raise AudioError("NOT_FOUND", f"cannot be read: {error}") from None
    if content is None:
        raise AudioError("NOT_FOUND", f"no bytes of {name} in {shard}: it could not be read when it was packed")
    return content


def listed(shard: str) -> pa.Table:
    """`uri`, `reference_uri` and the columns to carry, of all recordings of a shard."""
    return _listed_tar(shard) if shard.lower().endswith(".tar") else _listed_parquet(shard)


# ---- Parquet


def _listed_parquet(shard: str) -> pa.Table:
    with storage.open_file(shard) as file, _broken(shard):
        source = parquet.ParquetFile(file)
        schema = source.schema_arrow
        if "uri" not in schema.names:
            raise UsageError(f"{shard} has audio, but no column 'uri'; it has {', '.join(schema.names)}")
        kept = source.read([name for name in schema.names if name not in ("audio", "reference", "reference_uri")])
        lacking = [None] * len(kept)
        if "reference" in schema.names:
            lacking = []
            for batch in source.iter_batches(BATCH, columns=["reference"]):
                lacking += batch.column(0).is_null().to_pylist()
    names = kept["uri"].cast(pa.string()).to_pylist()
    if not all(names):
        raise UsageError(f"{shard} has no uri in row {[bool(name) for name in names].index(False) + 1}")
    if len(set(names)) < len(names):
        raise UsageError(f"{shard} has two recordings whose uri is {Counter(names).most_common(1)[0][0]}")
    uris = [f"{shard}/{name}" for name in names]
    references = [uri + REFERENCE if lacks is False else None for uri, lacks in zip(uris, lacking, strict=True)]
    columns = {"uri": pa.array(uris, pa.string()), "reference_uri": pa.array(references, pa.string())}
    return pa.table(columns | {name: kept[name] for name in kept.column_names if name != "uri"})


def _cell(source: parquet.ParquetFile, group: int, row: int, column: str) -> bytes | None:
    for batch in source.iter_batches(BATCH, row_groups=[group], columns=[column]):
        if row < len(batch):
            value = batch.column(0)[row].as_py()
            return value["bytes"] if isinstance(value, dict) else value
        row -= len(batch)
    raise IndexError(row)


# ---- tar


def _listed_tar(shard: str) -> pa.Table:
    samples: dict[str, dict[str, str]] = {}
    rows = []
    with storage.open_file(shard) as file, _broken(shard):
        contents = _contents(shard, _version(file))
        for name in contents:
            key, ending = _key(name)
            samples.setdefault(key, {})[ending] = name
        for files in samples.values():
            audio = [e for e in files if e not in ("json", "txt", "cls") and not _is_reference(e)]
            carried = {}
            if "json" in files:
                offset, size = contents[files["json"]]
                file.seek(offset)
                carried = _values(file.read(size), f"{shard}/{files['json']}")
            reference = next((f"{shard}/{files[e]}" for e in files if _is_reference(e)), None)
            rows += [carried | {"uri": f"{shard}/{files[e]}", "reference_uri": reference} for e in audio]
        names = dict.fromkeys(["uri", "reference_uri", *(name for row in rows for name in row)])
        return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def _column(name: str, values: list) -> pa.Array:
    """Of one type: where samples disagree, all of them are words."""
    if name not in ("uri", "reference_uri"):
        with suppress(pa.ArrowException, OverflowError):
            return pa.array(values)
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _key(name: str) -> tuple[str, str]:
    """`a/b.reference.wav` -> (`a/b`, `reference.wav`)."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.with_name(stem)), ending.lower()


def _is_reference(ending: str) -> bool:
    return ending.split(".")[0] in ("reference", "ref")


def _values(content: bytes, name: str) -> dict:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise UsageError(f"{name} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{name} is not an object of names and values")
    return {k: v for k, v in values.items() if v is None or isinstance(v, str | int | float | bool)}


# ---- both


def _version(file: BinaryIO) -> str:
    """What changes where an open shard is another one than before."""
    if hasattr(file, "details"):
        return str({name: file.details.get(name) for name in ("ETag", "etag", "LastModified", "updated", "size")})
    found = os.fstat(file.fileno())
    return f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"


@lru_cache(HELD)
def _contents(shard: str, version: str) -> Mapping[str, tuple[int, int]]:
    """Name -> where it is: offset and bytes in a tar, row group and row in a Parquet file. Not of hidden files in a tar
    (macOS puts `._name.wav` beside `name.wav`)."""
    with storage.open_file(shard) as file, _broken(shard):
        if shard.lower().endswith(".tar"):
            with tarfile.open(fileobj=file, mode="r:") as tar:
                files = (member for member in tar if member.isfile() and not HIDDEN.search(member.name))
                return {member.name: (member.offset_data, member.size) for member in files}
        source, found = parquet.ParquetFile(file), {}
        for group in range(source.num_row_groups):
            for row, name in enumerate(source.read_row_group(group, ["uri"])["uri"].to_pylist()):
                found[str(name)] = found[str(name) + REFERENCE] = (group, row)
        return found


class _broken:
    """What a library says of a broken shard becomes one line."""

    def __init__(self, shard: str):
        self.shard = shard

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, _) -> None:
        if isinstance(error, UnicodeEncodeError):
            raise UsageError(f"the shard {self.shard} has a name that is not UTF-8: {error.object!r}") from None
        if isinstance(error, pa.ArrowException | tarfile.TarError):
            raise UsageError(f"cannot read the shard {self.shard}: {next(iter(str(error).splitlines()), '')}") from None
