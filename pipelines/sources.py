"""What to score: files, folders, globs and manifests become one Arrow table with a row for each recording.

Columns: `recording_id` int64, `uri`, `reference_uri` (null: no reference) and every other column of the manifests.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from sqllm.errors import UsageError
from sqllm.recording import ROW_FIELDS, recording_id

AUDIO = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".gsm"),
    *(".w64", ".rf64", ".caf", ".sph", ".aac", ".m4a", ".mp4", ".amr", ".awb", ".3gp", ".3ga", ".g729", ".g722"),
    *(".g723", ".g726", ".wma", ".webm", ".mka"),
)
MANIFESTS = (".csv", ".parquet")
INTEGER, NUMBER = r"^(0|-?[1-9]\d{0,17})$", r"^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$"


def find(sources: Sequence[str], reference: str | None = None, limit: int | None = None) -> pa.Table:
    """The recordings behind `sources`, in their order, each once; at most `limit` of them.

    `reference` is a folder whose files pair with the recordings by relative name (extensions may differ), or a file
    when there is one recording. A manifest's own `reference_uri` goes first.
    Raises UsageError where a source is missing or nothing is found.
    """
    tables = [_expand(source) for source in sources]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UsageError(f"a column has different types in two manifests: {error}") from None
    if not table.num_rows:
        raise UsageError(f"no recordings in {', '.join(sources)}: audio files are known by their extension")
    if reference:
        table = _with_references(table, reference)
    pairs = zip(table["uri"].to_pylist(), table["reference_uri"].to_pylist(), strict=True)
    first = {pair: position for position, pair in reversed(list(enumerate(pairs)))}
    table = table.take(pa.array(sorted(first.values())[:limit], pa.int64())).drop_columns("relative")
    ids = pa.array(map(recording_id, table["uri"].to_pylist()), pa.int64())
    return table.add_column(0, "recording_id", ids)


def _expand(source: str) -> pa.Table:
    """One SOURCE as a table of `uri`, `relative` (the name that pairs it with a reference), `reference_uri`, others."""
    path = Path(_local(source))
    if path.is_dir():
        return _table((file, file.relative_to(path)) for file in _walk(path))
    if path.suffix.lower() in MANIFESTS and path.is_file():
        return _manifest(path)
    if path.exists():
        return _table([(path, path.name)])
    if glob.has_magic(str(path)):
        root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts[:-1]))
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
        if not files:
            raise UsageError(f"nothing matches {source}")
        return _table((file, file.relative_to(root)) for file in files)
    raise UsageError(f"no such file or folder: {source}")


def _table(files) -> pa.Table:
    pairs = [(os.path.abspath(file), str(relative)) for file, relative in files]
    for uri, _ in pairs:
        if not uri.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in uri):
            raise UsageError(f"a file's name is not UTF-8, rename it: {uri!r}")
    return pa.table(
        {
            "uri": pa.array([uri for uri, _ in pairs], pa.string()),
            "reference_uri": pa.nulls(len(pairs), pa.string()),
            "relative": pa.array([relative for _, relative in pairs], pa.string()),
        }
    )


def _walk(root: Path) -> Iterator[Path]:
    """Audio files below `root`, sorted; hidden ones are left out (macOS puts `._name.wav` beside `name.wav`)."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO:
                yield Path(folder, name)


def _manifest(path: Path) -> pa.Table:
    try:
        table = parquet.read_table(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"cannot read the manifest {path}: {str(error).splitlines()[0]}") from None
    if "uri" not in table.column_names:
        raise UsageError(f"the manifest {path} has no column 'uri'; it has {', '.join(table.column_names)}")
    names = table["uri"].cast(pa.string()).to_pylist()
    if not all(names):
        raise UsageError(f"the manifest {path} has no uri in row {[bool(name) for name in names].index(False) + 1}")
    references = [None] * len(names)
    if "reference_uri" in table.column_names:
        references = table["reference_uri"].cast(pa.string()).to_pylist()
    carried = table.drop_columns([name for name in ("uri", "reference_uri") if name in table.column_names])
    uris = [_beside(path, name) for name in names]
    columns = {
        "uri": pa.array(uris, pa.string()),
        "reference_uri": pa.array([_beside(path, name) if name else None for name in references], pa.string()),
        "relative": pa.array([_relative(name) for name in names], pa.string()),
    }
    for name, column in zip(carried.column_names, carried.columns, strict=True):
        while name in columns or name in ROW_FIELDS:  # human votes in a column `mos` must not pass for the model's
            name = "given_" + name
        columns[name] = column
    return pa.table(columns)


def _read_csv(path: Path) -> pa.Table:
    """A CSV with comma, semicolon or tab. A column is numeric only if nothing is lost: trunk "007" stays "007"."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    parse = csv.ParseOptions(delimiter=max(",;\t", key=header.count), newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as reader:
        types = {name: pa.string() for name in reader.schema.names}
    convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
    table = csv.read_csv(path, parse_options=parse, convert_options=convert)
    for position, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        for pattern, kind in ((INTEGER, pa.int64()), (NUMBER, pa.float64())):
            if column.null_count < len(column) and pc.all(pc.match_substring_regex(column, pattern)).as_py():
                table = table.set_column(position, name, column.cast(kind))
                break
    return table


def _with_references(table: pa.Table, root: str) -> pa.Table:
    """Fill in the `reference_uri`s that are null from the folder (or file) `root`."""
    path = Path(_local(root))
    if path.is_file() and table.num_rows == 1:
        found = [os.path.abspath(path)]
    elif path.is_dir():
        by_name = {str(file.relative_to(path)): os.path.abspath(file) for file in _walk(path)}
        by_stem = {os.path.splitext(name)[0]: file for name, file in by_name.items()}
        names = table["relative"].to_pylist()
        found = [by_name.get(name) or by_stem.get(os.path.splitext(name)[0]) for name in names]
        if not any(found):
            raise UsageError(f"no file in {root} pairs with a recording: looked for {names[0]}, with any extension")
    elif path.is_file():
        raise UsageError(f"--reference {root} is one file, but there are {table.num_rows} recordings: give a folder")
    else:
        raise UsageError(f"no such folder: --reference {root}")
    filled = pc.coalesce(table["reference_uri"], pa.array(found, pa.string()))
    return table.set_column(table.column_names.index("reference_uri"), "reference_uri", filled)


def _beside(manifest: Path, name: str) -> str:
    """A manifest's relative names start from its own folder."""
    return name if "://" in name and not name.startswith("file://") else os.path.abspath(manifest.parent / _local(name))


def _local(name: str) -> str:
    return unquote(urlsplit(name).path) if name.startswith("file://") else name


def _relative(name: str) -> str:
    """The part of a manifest's uri that pairs it: whole where it is relative, else the file's name."""
    return PurePath(name).name if "://" in name or os.path.isabs(name) else os.path.normpath(name)
