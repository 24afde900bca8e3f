"""Rated recordings, whoever rated them, as one Arrow table.

Columns, null where nobody knows: `uri`, `reference_uri`, `set`, `condition`, `speaker`, `lang`, `split` (train, val or
test), `votes`, and `mos, noi, col, dis, loud` from 1 to 5 (higher is better), each with `_std`, the standard deviation
of its votes. Everything else a source has is carried along.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from sqllm import DIMENSIONS
from sqllm.errors import UsageError

TEXT = ("uri", "reference_uri", "set", "condition", "speaker", "lang", "split")
NUMBERS = ("votes", *DIMENSIONS, *(f"{d}_std" for d in DIMENSIONS))
NISQA = {  # column of the NISQA corpus (Mittag et al. 2021) -> ours
    "filepath_deg": "uri", "filepath_ref": "reference_uri", "db": "set", "con": "condition",
}  # `source` names where the clean speech is from, no speaker  # fmt: skip
NISQA_FILES = ("NISQA_corpus_file.csv", "*_file.csv", "*/*_file.csv")  # the first pattern that is there


def read(
    path: str | Path, columns: Mapping[str, str] | None = None, only: Mapping[str, str] | None = None,
    ranks: bool = False,
) -> pa.Table:  # fmt: skip
    """The NISQA corpus as its zip unpacks (the folder), or a CSV or Parquet file.

    `columns` maps our names to the file's, such as {"uri": "deg", "mos": "score"}; unnamed ones are called as ours are.
    `only` keeps the rows where a column (as the file calls it, or as NISQA's are called here) has that value; a name
    that ends in "!" those where it has another. With `ranks` ratings may be on any scale on which higher is better.
    Relative paths start from the file's folder. UsageError where it is neither, or where ratings are not on 1-5.
    """
    path = Path(path)
    if path.is_dir():
        if sorted(path.glob("clips-*.parquet")):
            raise UsageError(f"{path} was simulated, nobody rated it: see `python -m sqllm.evaluation controls --help`")
        return _kept(_nisqa(path, ranks), path, only)
    if path.suffix.lower() not in (".csv", ".parquet") or not path.is_file():
        raise UsageError(f"{path} is no corpus: give the folder of the NISQA corpus, or a CSV or Parquet of ratings")
    table = _kept(_load(path), path, only)
    for ours, theirs in (columns or {}).items():
        if ours not in (*TEXT, *NUMBERS):
            raise UsageError(f"no column {ours!r} to map to; there are {', '.join((*TEXT, *NUMBERS))}")
        if theirs not in table.column_names:
            raise UsageError(f"{path} has no column {theirs!r}; it has {', '.join(table.column_names)}")
    picked = {ours: table[theirs] for ours, theirs in (columns or {}).items()}
    table = table.drop_columns([name for name in table.column_names if name in {*picked, *(columns or {}).values()}])
    for ours, column in picked.items():
        table = table.append_column(ours, column)
    return _checked(table, path, path.parent, ranks)


def _kept(table: pa.Table, path: Path, only: Mapping[str, str] | None) -> pa.Table:
    for key, value in (only or {}).items():
        name = key.removesuffix("!")
        if name not in table.column_names:
            raise UsageError(f"{path} has no column {name!r}; it has {', '.join(table.column_names)}")
        has = pc.fill_null(pc.equal(table[name].cast(pa.string()), value), False)
        table = table.filter(has if name == key else pc.invert(has))
    if only and not len(table):
        raise UsageError(f"no row of {path} is left by --only")
    return table


def _nisqa(root: Path, ranks: bool) -> pa.Table:
    found = next((files for pattern in NISQA_FILES if (files := sorted(root.glob(pattern)))), [])
    if not found:
        raise UsageError(f"{root} does not look like the NISQA corpus: it holds no NISQA_*/NISQA_*_file.csv")
    tables = []
    for file in found:
        table = _load(file)
        missing = {"filepath_deg", "mos", "db"} - set(table.column_names)
        if missing:
            raise UsageError(f"{file} is not of the NISQA corpus: it has no column {', '.join(sorted(missing))}")
        table = table.drop_columns([ours for theirs, ours in NISQA.items() if ours in table.column_names])
        table = table.rename_columns([NISQA.get(name, name) for name in table.column_names])
        # a set's own file counts from the corpus's root too
        above = root if file.parent == root and file.name == NISQA_FILES[0] else file.parent.parent
        tables.append(_checked(table, file, above, ranks))
    table = pa.concat_tables(tables, promote_options="permissive")
    kinds = pc.struct_field(pc.extract_regex(table["set"], r"_(?P<kind>TRAIN|VAL|TEST)"), "kind")
    return table.set_column(table.column_names.index("split"), "split", pc.utf8_lower(kinds))


def _load(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return parquet.read_table(path)
        empty = csv.ConvertOptions(strings_can_be_null=True, null_values=["", "NA", "nan", "NaN"])
        return csv.read_csv(path, convert_options=empty)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def _checked(table: pa.Table, path: Path, root: Path, ranks: bool) -> pa.Table:
    """With all our columns, paths made absolute, ratings on their scale unless only their `ranks` count."""
    if "uri" not in table.column_names:
        raise UsageError(f"{path} has no column 'uri' with the recordings; it has {', '.join(table.column_names)}")
    for name in TEXT:
        column = table[name].cast(pa.string()) if name in table.column_names else pa.nulls(len(table), pa.string())
        if name == "uri" and column.null_count:
            raise UsageError(f"{path} has no uri in row {pc.index(pc.is_null(column), True).as_py() + 1}")
        if name in ("uri", "reference_uri"):
            column = pa.array([p and _absolute(root, p) for p in column.to_pylist()], pa.string())
        table = _put(table, name, column)
    for name in NUMBERS:
        column = _numbers(table[name], name, path) if name in table.column_names else pa.nulls(len(table), pa.float64())
        table = _put(table, name, pc.if_else(pc.is_nan(column), None, column))
    for name in DIMENSIONS:
        span = pc.min_max(table[name]).as_py()
        if not ranks and span["min"] is not None and not 1 <= span["min"] <= span["max"] <= 5:
            raise UsageError(
                f"{path}: {name} runs from {span['min']:g} to {span['max']:g}, and ratings here are from 1 to 5"
                " (`sqllm evaluate --ranks` compares ranks on any scale)"
            )
    if not any(table[d].null_count < len(table) for d in DIMENSIONS):
        raise UsageError(f"{path} has no ratings: none of the columns {', '.join(DIMENSIONS)} holds a number")
    return table


def _numbers(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    try:
        return column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for row, value in enumerate(column.to_pylist(), 1):
            try:
                float(value if value is not None else "nan")
            except (TypeError, ValueError):
                raise UsageError(f"{path}, row {row}: {name} is {value!r}, and should be a number") from None
        raise UsageError(f"{path}: {name} holds {column.type}, and should hold numbers") from None


def _put(table: pa.Table, name: str, column) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def _absolute(root: Path, name: str) -> str:
    return name if "://" in name else os.path.abspath(root / name)


def leakage(rows: Iterable[Mapping]) -> str | None:
    """What the split train shares with val or test, in words: recordings, speakers, or conditions of one set."""
    rows = list(rows)
    for name, key in (
        ("recording", lambda r: r.get("uri")),
        ("speaker", lambda r: r.get("speaker")),
        ("condition", lambda r: r.get("condition") and (r.get("set"), r["condition"])),
    ):
        seen = {split: {key(r) for r in rows if r["split"] == split} - {None} for split in ("train", "val", "test")}
        for other in ("val", "test"):
            if shared := seen["train"] & seen[other]:
                hint = " (a column `set` tells those of different tests apart)" if name == "condition" else ""
                one = min(", in ".join(filter(None, reversed(s))) if isinstance(s, tuple) else str(s) for s in shared)
                return f"{len(shared)} {name}(s) are in both train and {other}, such as {one}{hint}"
    return None
