from datetime import UTC, datetime

import pyarrow as pa
from pyarrow import dataset

from pipelines.sink import Sink, commit, reopen, row_schema
from sqllm.audio.evidence import Evidence
from sqllm.recording import ROW_FIELDS


def test_parts_appear_whole_beside_those_of_an_earlier_run(tmp_path):
    schema = row_schema(pa.schema([("trunk", pa.string())]))
    for name in ("part-1-00000.parquet", ".part-1-00001.parquet.7.tmp", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"earlier")
    reopen(str(tmp_path))
    sink = Sink(tmp_path, schema)
    assert [path.name for path in tmp_path.iterdir()] == ["part-1-00000.parquet"]  # what was half is gone
    (tmp_path / "part-1-00000.parquet").unlink()
    sink.write([{"uri": "a", "scored_at": datetime.now(UTC)}])
    assert not list(tmp_path.iterdir())
    sink.flush()
    sink.flush()
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]
    commit(str(tmp_path), {"rows": 1})
    table = dataset.dataset(tmp_path).to_table()
    assert table.schema.names == [*ROW_FIELDS, "trunk"]
    assert table.schema.field("mos").type == pa.float32()  # though every value is null
    assert not [field for field in table.schema if pa.types.is_null(field.type)]


def test_the_schema_knows_every_measured_fact():
    kind = row_schema(pa.schema([])).field("evidence").type
    assert {field.name for field in kind} == set(Evidence().result())
