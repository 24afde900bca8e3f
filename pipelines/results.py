"""The scores of a run, read back a batch at a time: `DIR/summary.json`, and the rows of its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from pyarrow import dataset

from sqllm.errors import UsageError
from sqllm.recording import ROW_FIELDS

SUMMARY = "summary.json"
BATCH_ROWS = 16_384


@dataclass
class Results:
    """A finished or half-finished run. UsageError where `out` holds none."""

    out: Path
    summary: dict

    @classmethod
    def open(cls, out: Path) -> Results:
        if not (out / SUMMARY).is_file():
            raise UsageError(f"no scores in {out}: it has no {SUMMARY}. `sqllm score SOURCE --out {out}` makes one")
        return cls(out, json.loads((out / SUMMARY).read_text()))

    @cached_property
    def data(self) -> dataset.Dataset:
        return dataset.dataset(self.out / "scores", format="parquet", partitioning="hive")

    @cached_property
    def only(self) -> dataset.Expression:
        """The rows of this run among those of others in the same folder."""
        model = self.summary.get("model")
        return dataset.scalar(True) if model is None else dataset.field("model") == model

    @property
    def carried(self) -> list[str]:
        """The columns of the manifest."""
        return [name for name in self.data.schema.names if name not in (*ROW_FIELDS, "fingerprint")]

    def parts(self) -> list[dataset.Fragment]:
        return list(self.data.get_fragments(self.only))

    def batches(self, columns, parts: list | None = None, only: dataset.Expression | None = None) -> Iterator[
        tuple[dataset.Fragment, pa.RecordBatch]
    ]:  # fmt: skip
        """(its file, rows): `columns` are names, or names with expressions. No more than a few batches are held."""
        for part in self.parts() if parts is None else parts:
            for batch in part.to_batches(
                schema=self.data.schema, columns=columns, filter=self.only if only is None else self.only & only,
                batch_size=BATCH_ROWS, batch_readahead=1, fragment_readahead=1,
            ):  # fmt: skip
                if len(batch):
                    yield part, batch
