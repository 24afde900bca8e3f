"""The scores of a run, read back a batch at a time: `DIR/summary.json`, and the rows of its partitions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from pyarrow import dataset, fs

from sqllm import storage
from sqllm.errors import UsageError
from sqllm.recording import ROW_FIELDS, VERSION

SUMMARY = "summary.json"
BATCH_ROWS = 16_384


@dataclass
class Results:
    """A finished or half-finished run. UsageError where `out`, a folder or a URI, holds none."""

    out: str
    summary: dict

    @classmethod
    def open(cls, out: str | os.PathLike) -> Results:
        out = os.fspath(out)
        try:
            return cls(out, json.loads(storage.read(storage.join(out, SUMMARY))))
        except FileNotFoundError:
            raise UsageError(
                f"no scores in {out}: it has no {SUMMARY}. `sqllm score SOURCE --out {out}` makes one"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot read {out}: {error.strerror or error}") from None

    @property
    def name(self) -> str:
        return os.path.basename(self.out.rstrip("/") if storage.is_remote(self.out) else os.path.abspath(self.out))

    @cached_property
    def data(self) -> dataset.Dataset:
        """The rows of this run; those of other models and settings in the same folder are in other partitions.

        Columns that only some of the sources carried are null elsewhere.
        """
        files = fs.PyFileSystem(fs.FSSpecHandler(storage.system(self.out)[0]))
        if not self._folders:
            raise UsageError(f"no scores in {self.out} yet: `sqllm show {self.out}` follows a run")
        selectors = [fs.FileSelector(folder, recursive=True) for folder in self._folders]
        found = [dataset.FileSystemDatasetFactory(files, s, dataset.ParquetFileFormat()) for s in selectors]
        try:
            schemas = [each.inspect(promote_options="permissive") for each in found]
            schema = pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise UsageError(f"a column that was carried into {self.out} changed its type: {error}") from None
        return dataset.dataset([each.finish(schema) for each in found])

    @cached_property
    def _folders(self) -> list[str]:
        """Those of the partitions in which there is a file already."""
        folders = [storage.join(self.out, "scores", partition) for partition in self.summary["partitions"]]
        return [storage.system(folder)[1] for folder in folders if storage.info(folder)[0] == "directory"]

    @property
    def carried(self) -> list[str]:
        """The columns of the manifest."""
        return [name for name in self.data.schema.names if name not in (*ROW_FIELDS, *VERSION)]

    def parts(self) -> list[dataset.Fragment]:
        """The files; none as long as nothing is written."""
        return list(self.data.get_fragments()) if self._folders else []

    def batches(self, columns, parts: list | None = None, only: dataset.Expression | None = None) -> Iterator[
        tuple[dataset.Fragment, pa.RecordBatch]
    ]:  # fmt: skip
        """(its file, rows): `columns` are names, or names with expressions. No more than a few batches are held."""
        for part in self.parts() if parts is None else parts:
            for batch in part.to_batches(
                schema=self.data.schema, columns=columns, filter=only,
                batch_size=BATCH_ROWS, batch_readahead=1, fragment_readahead=1,
            ):  # fmt: skip
                if len(batch):
                    yield part, batch
