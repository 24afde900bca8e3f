import pyarrow as pa
import pytest

from pipelines.results import Results
from pipelines.sink import Sink, row_schema
from pipelines.summary import Totals, write_summary
from sqllm.errors import UsageError


@pytest.fixture
def nights(tmp_path):
    """nights(types of what was carried, ...): one row for each."""

    def write(*carried):
        totals = Totals(recordings=len(carried), partitions=["fingerprint=m"])
        write_summary(tmp_path, totals)
        for n, types in enumerate(carried):
            sink = Sink(tmp_path / "scores/fingerprint=m", row_schema(pa.schema(list(types.items()))))
            values = {pa.string(): f"t{n}", pa.int64(): n, pa.float64(): n + 0.5}
            sink.write([{"uri": f"/{n}.wav", "model": "m"} | {name: values[kind] for name, kind in types.items()}])
            sink.flush()
        return Results.open(tmp_path)

    return write


def test_what_some_nights_carried_is_null_in_the_others(nights):
    results = nights({}, {"trunk": pa.string()}, {"delay": pa.int64()}, {"delay": pa.float64()})
    assert sorted(results.carried) == ["delay", "trunk"]
    columns = ["uri", "trunk", "delay"]
    rows = sorted(tuple(row.values()) for _, batch in results.batches(columns) for row in batch.to_pylist())
    assert rows == [("/0.wav", None, None), ("/1.wav", "t1", None), ("/2.wav", None, 2), ("/3.wav", None, 3.5)]


def test_a_column_that_became_something_else_is_said(nights):
    with pytest.raises(UsageError, match="trunk"):
        _ = nights({"trunk": pa.string()}, {"trunk": pa.int64()}).data
