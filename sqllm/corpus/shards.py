"""A corpus to train on: Parquet shards `clips-00000.parquet`, ... in a folder, or wherever pyarrow reads (s3://...).

A row is a clip of up to 10 s: `audio` and `reference` as FLAC bytes (16 kHz mono, same length, sample-aligned;
`reference` may be null), `split`, `speaker`, ratings `mos, noi, col, dis, loud`, and what else its maker knows
(`sqllm.corpus.simulate`, `sqllm.corpus.rated`).
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import soundfile as sf
from pyarrow import fs, parquet

from sqllm.audio import RATE
from sqllm.errors import UsageError


def flac(x: np.ndarray) -> bytes:
    """int16, or float of full scale 1.0."""
    buffer = io.BytesIO()
    sf.write(buffer, x, RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def samples(flac: bytes) -> np.ndarray:
    return sf.read(io.BytesIO(flac), dtype="float32")[0]


@dataclass
class Shards:
    """The folder of a corpus. Everything is read where it lies and when it is asked for; pickles are small."""

    system: fs.FileSystem
    folder: str
    _heads: dict[str, tuple] = field(default_factory=dict, repr=False)  # of arrays: where they begin, type, shape

    @classmethod
    def open(cls, place: str, what: str = "corpus") -> Shards:
        """UsageError where pyarrow cannot open `place`, a folder or a URI."""
        try:
            return cls(*(fs.FileSystem.from_uri(place) if "://" in place else (fs.LocalFileSystem(), place)))
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"cannot open {what} {place}: {error}") from None

    def files(self) -> set[str]:
        """The names of all files; none where there is no such folder."""
        if self.system.get_file_info(self.folder).is_file:
            return set()
        found = self.system.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
        return {info.base_name for info in found if info.is_file}

    def names(self) -> list[str]:
        return sorted(name for name in self.files() if name.startswith("clips-") and name.endswith(".parquet"))

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A shard; of the `columns` those that it has."""
        with self.system.open_input_file(f"{self.folder}/{name}") as source:
            file = parquet.ParquetFile(source)
            return file.read([c for c in columns if c in file.schema_arrow.names] if columns else None)

    def metadata(self, name: str) -> dict[str, str]:
        """What a shard says of itself as a whole."""
        with self.system.open_input_file(f"{self.folder}/{name}") as source:
            found = parquet.read_schema(source).metadata or {}
        return {key.decode(): value.decode() for key, value in found.items()}

    def value(self, name: str, row: int, column: str):
        """One value of a shard, of which no more than the group of its row is read."""
        with self.system.open_input_file(f"{self.folder}/{name}") as source:
            file = parquet.ParquetFile(source)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row < rows:
                    return file.read_row_group(group, [column])[column][row].as_py()
                row -= rows
        raise IndexError(row)

    def note(self, name: str) -> dict | None:
        """What `write_note` wrote; None where there is none."""
        if name not in self.files():
            return None
        with self.system.open_input_stream(f"{self.folder}/{name}") as source:
            return json.loads(source.read())

    def write_note(self, name: str, content: dict) -> None:
        self._put(name, json.dumps(content, indent=2).encode())

    def remove(self, name: str) -> None:
        self.system.delete_file(f"{self.folder}/{name}")

    def write(self, name: str, table: pa.Table, group: int | None = None) -> None:
        """A shard, of which `group` rows can be read at a time."""
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink, row_group_size=group)
        self._put(name, sink.getvalue())

    def write_array(self, name: str, array: np.ndarray) -> None:
        sink = io.BytesIO()
        np.save(sink, array)
        self._put(name, sink.getbuffer())

    def array_row(self, name: str, *index: int) -> np.ndarray:
        """array[index] of the file `name` (.npy), of which no more is read."""
        with self.system.open_input_file(f"{self.folder}/{name}") as file:
            if name not in self._heads:
                head = io.BytesIO(file.read_at(4096, 0))
                np.lib.format.read_magic(head)
                shape, _, dtype = np.lib.format.read_array_header_1_0(head)
                self._heads[name] = head.tell(), dtype, shape
            start, dtype, shape = self._heads[name]
            inner = shape[len(index) :]
            size = math.prod(inner) * dtype.itemsize
            at = int(np.ravel_multi_index(index, shape[: len(index)]))
            return np.frombuffer(file.read_at(size, start + at * size), dtype).reshape(inner)

    def _put(self, name: str, content) -> None:
        """A file that appears whole or not at all."""
        final = temporary = f"{self.folder}/{name}"
        if local := isinstance(self.system, fs.LocalFileSystem):  # elsewhere an object appears when it is complete
            self.system.create_dir(self.folder, recursive=True)
            temporary = f"{self.folder}/.{name}.{os.getpid()}.tmp"
        with self.system.open_output_stream(temporary) as stream:
            stream.write(content)
        if local:
            self.system.move(temporary, final)
