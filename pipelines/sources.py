"""What to score: files, folders, globs and manifests, here or on s3://, become one Arrow table, a recording a row.

Columns: `recording_id` int64, `uri`, `reference_uri` (null: no reference), `size` and `etag` (null where nobody asked
the store; `etag` changes with the file's content) and every other column of the manifests.
"""

from __future__ import annotations

import glob
import io
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from sqllm import storage
from sqllm.audio import packed
from sqllm.errors import UsageError
from sqllm.recording import ROW_FIELDS, VERSION, recording_id

AUDIO = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".gsm"),
    *(".w64", ".rf64", ".caf", ".sph", ".aac", ".m4a", ".mp4", ".amr", ".awb", ".3gp", ".3ga", ".g729", ".g722"),
    *(".g723", ".g726", ".wma", ".webm", ".mka"),
)
MANIFESTS = (".csv", ".parquet")
BATCH = 10_000  # files
INTEGER, NUMBER = r"^(0|-?[1-9]\d{0,17})$", r"^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$"


def find(sources: Sequence[str], reference: str | None = None, limit: int | None = None) -> pa.Table:
    """The recordings behind `sources`, in their order, each once; at most `limit` of them.

    `reference` is a folder whose files pair with the recordings by relative name (extensions may differ), or a file
    when there is one recording. A manifest's own `reference_uri` goes first.
    Raises UsageError where a source is missing or nothing is found.
    """
    if "" in sources or reference == "":
        raise UsageError("an empty name was given: is a variable not set?")
    try:
        table = pa.concat_tables([_expand(source) for source in sources], promote_options="permissive")
    except pa.ArrowException as error:
        raise UsageError(f"a column has different types in two manifests or shards: {error}") from None
    if not table.num_rows:
        raise UsageError(f"no recordings in {', '.join(sources)}: audio files are known by their extension")
    if reference:
        table = _with_references(table, reference)
    uris = (uri for chunk in table["uri"].chunks for uri in chunk.to_pylist())
    table = table.drop_columns("relative").add_column(0, "recording_id", pa.array(map(recording_id, uris), pa.int64()))
    first = np.unique(keys(table), return_index=True)[1]
    return table.take(pa.array(np.sort(first)[:limit], pa.int64()))


def keys(table: pa.Table) -> np.ndarray:
    """int64 [n]: a recording and what it is compared with."""
    ids = table["recording_id"].to_numpy().copy()
    references = table["reference_uri"]
    for at in np.flatnonzero(pc.is_valid(references).to_numpy()):
        ids[at] = recording_id(f"{ids[at]} {references[int(at)].as_py()}")
    return ids


def _expand(source: str) -> pa.Table:
    """One SOURCE as a table of `uri`, `relative` (the name that pairs it with a reference), `reference_uri`, others."""
    try:
        kind, file = storage.info(source)
        if kind == "directory":
            return _table(_files(source))
        if kind == "file":
            listed = source.lower().endswith(MANIFESTS) and not packed.is_shard(source)
            return _manifest(source) if listed else _table([(file, _name(file.uri))], alone=True)
        if not glob.has_magic(source):
            raise UsageError(f"no such file or folder: {source}")
        root = "/".join(takewhile(lambda part: not glob.has_magic(part), _uri(source).split("/")[:-1]))
        files = [(file, file.uri[len(root) :].lstrip("/")) for file in storage.matching(source)]
    except OSError as error:
        raise UsageError(f"cannot list {error.filename or source}: {error.strerror or error}") from None
    if not files:
        raise UsageError(f"nothing matches {source}")
    return _table(files)


def _table(files: Iterable[tuple[storage.Found, str]], alone: bool = False) -> pa.Table:
    tables, pairs, shards = [], [], []
    for file, name in files:
        try:
            shard = _shard(file) if packed.is_shard(file.uri) else None
        except UsageError:
            if alone:
                raise
            shard = None  # one that is broken becomes a row that says so, and the others are scored
        if shard is None:
            pairs.append((file, name))
        else:
            shards.append(shard)
        if len(pairs) == BATCH:  # as columns they take a tenth of the memory
            tables, pairs = [*tables, _loose(pairs)], []
    return pa.concat_tables([*tables, _loose(pairs), *shards], promote_options="permissive")


def _shard_or_broken(uri: str) -> bool:
    try:
        return packed.is_shard(uri)
    except UsageError:
        return True


def _shard(file: storage.Found) -> pa.Table:
    """The recordings in a shard; they change when it does."""
    table = packed.listed(file.uri)
    uris = table["uri"].to_pylist()
    columns = {
        "uri": table["uri"],
        "reference_uri": table["reference_uri"],
        "relative": pa.array([posixpath.normpath(uri[len(file.uri) + 1 :]) for uri in uris], pa.string()),
        "size": pa.nulls(len(uris), pa.int64()),
        "etag": pa.array([file.etag] * len(uris), pa.string()),
    }
    return pa.table(columns | _carried(table, columns))


def _loose(pairs: Sequence[tuple[storage.Found, str]]) -> pa.Table:
    for file, _ in pairs:
        if not file.uri.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in file.uri):
            raise UsageError(f"a file's name is not UTF-8, rename it: {file.uri!r}")
    return pa.table(
        {
            "uri": pa.array([file.uri for file, _ in pairs], pa.string()),
            "reference_uri": pa.nulls(len(pairs), pa.string()),
            "relative": pa.array([relative for _, relative in pairs], pa.string()),
            "size": pa.array([file.size for file, _ in pairs], pa.int64()),
            "etag": pa.array([file.etag for file, _ in pairs], pa.string()),
        }
    )


def _files(folder: str) -> Iterator[tuple[storage.Found, str]]:
    """Audio files and shards in a folder and its folders, and their names below it."""
    root = _uri(folder)
    for file in storage.below(folder):
        if file.uri.lower().endswith(AUDIO) or _shard_or_broken(file.uri):
            yield file, file.uri[len(root) :].lstrip("/")


def _manifest(source: str) -> pa.Table:
    try:
        content = storage.read(source)
        table = parquet.read_table(io.BytesIO(content)) if source.lower().endswith(".parquet") else _read_csv(content)
        names = table.column_names
        if "uri" not in names:
            raise UsageError(f"the manifest {source} has no column 'uri'; it has {', '.join(names)}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"the manifest {source} has two columns {twice[0]!r}")
        named = table["uri"].cast(pa.string())
        blank = pc.index(pc.fill_null(pc.equal(named, ""), True), True).as_py()
        if blank >= 0:
            raise UsageError(f"the manifest {source} has no uri in row {blank + 1}")
        folder = posixpath.dirname(_uri(source))
        slices = range(0, max(len(table), 1), BATCH)  # as Python's objects all of it would take ten times the memory
        return pa.concat_tables([_entries(table.slice(first, BATCH), folder) for first in slices])
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"cannot read the manifest {source}: {str(error).splitlines()[0]}") from None


def _entries(table: pa.Table, folder: str) -> pa.Table:
    names = table["uri"].cast(pa.string()).to_pylist()
    references = [None] * len(names)
    if "reference_uri" in table.column_names:
        references = table["reference_uri"].cast(pa.string()).to_pylist()
    uris = [_beside(folder, name) for name in names]
    columns = {
        "uri": pa.array(uris, pa.string()),
        "reference_uri": pa.array([_beside(folder, name) if name else None for name in references], pa.string()),
        "relative": pa.array([_relative(name) for name in names], pa.string()),
        **_versions(table, uris),
    }
    ours = {"uri", "reference_uri", "recording_id"} | (set(VERSION) if _has_versions(table) else set())
    return pa.table(columns | _carried(table.drop_columns([n for n in table.column_names if n in ours]), columns))


def _carried(table: pa.Table, ours: Mapping) -> dict[str, pa.ChunkedArray]:
    """The columns of a manifest or a shard that are its maker's, under names that are not ours."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in ("uri", "reference_uri"):
            continue
        while name in ours or name in columns or name in ROW_FIELDS:  # human votes in `mos` must not pass for scores
            name = "given_" + name
        columns[name] = column
    return columns


def _has_versions(table: pa.Table) -> bool:
    return set(VERSION) <= set(table.column_names)


def _versions(table: pa.Table, uris: list[str]) -> dict:
    """`size` and `etag`: the manifest's own, else those of files on this machine. No store is asked a million times."""
    if _has_versions(table):
        return {"size": table["size"].cast(pa.int64()), "etag": table["etag"].cast(pa.string())}
    found = [None if storage.is_remote(uri) else _known(uri) for uri in uris]
    return {
        "size": pa.array([file and file.size for file in found], pa.int64()),
        "etag": pa.array([file and file.etag for file in found], pa.string()),
    }


def _known(uri: str) -> storage.Found | None:
    with suppress(OSError, ValueError):  # why it cannot be read its row will say
        return storage.stat(uri)


def _read_csv(content: bytes) -> pa.Table:
    """A CSV with comma, semicolon or tab. A column is numeric only if nothing is lost: trunk "007" stays "007"."""
    header = content.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace")
    parse = csv.ParseOptions(delimiter=max(",;\t", key=header.count), newlines_in_values=True)
    with csv.open_csv(pa.BufferReader(content), parse_options=parse) as reader:
        types = {name: pa.string() for name in reader.schema.names}
    convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
    table = csv.read_csv(pa.BufferReader(content), parse_options=parse, convert_options=convert)
    for position, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        for pattern, kind in ((INTEGER, pa.int64()), (NUMBER, pa.float64())):
            if column.null_count < len(column) and pc.all(pc.match_substring_regex(column, pattern)).as_py():
                table = table.set_column(position, name, column.cast(kind))
                break
    return table


def _with_references(table: pa.Table, root: str) -> pa.Table:
    """Fill in the `reference_uri`s that are null from the folder (or file) `root`."""
    try:
        kind, file = storage.info(root)
        by_name = {name: file.uri for file, name in _files(root)} if kind == "directory" else {}
    except OSError as error:
        raise UsageError(f"cannot list --reference {error.filename or root}: {error.strerror or error}") from None
    if kind == "file" and table.num_rows == 1:
        found = [file.uri]
    elif kind == "directory":
        by_stem = {os.path.splitext(name)[0]: uri for name, uri in by_name.items()}
        names = table["relative"].to_pylist()
        found = [by_name.get(name) or by_stem.get(os.path.splitext(name)[0]) for name in names]
        if not any(found):
            raise UsageError(f"no file in {root} pairs with a recording: looked for {names[0]}, with any extension")
    elif kind == "file":
        raise UsageError(f"--reference {root} is one file, but there are {table.num_rows} recordings: give a folder")
    else:
        raise UsageError(f"no such folder: --reference {root}")
    filled = pc.coalesce(table["reference_uri"], pa.array(found, pa.string()))
    return table.set_column(table.column_names.index("reference_uri"), "reference_uri", filled)


def _uri(name: str) -> str:
    """A path as an absolute one; what is not on this machine as it is."""
    return name.rstrip("/") if storage.is_remote(name) else os.path.abspath(storage.local(name))


def _name(uri: str) -> str:
    return uri.rsplit("/", 1)[-1]


def _beside(folder: str, name: str) -> str:
    """A manifest's relative names start from its own folder."""
    if storage.is_remote(name):
        return name
    shard, inside = packed.split(name) or (name, "")  # where names are what they are: `./a.wav`, `/a.wav`
    at = storage.local(shard)
    if os.path.isabs(at) or not storage.is_remote(folder):
        place = os.path.abspath(os.path.join(folder, at))
    else:
        scheme, path = folder.split("://", 1)
        place = f"{scheme}://{posixpath.normpath(posixpath.join(path, at))}"
    return f"{place}/{inside}" if inside else place


def _relative(name: str) -> str:
    """The part of a manifest's uri that pairs it: whole where it is relative, else the file's name."""
    return PurePath(name).name if "://" in name or os.path.isabs(name) else os.path.normpath(name)
