import pickle

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from sqllm.corpus.shards import Shards
from sqllm.errors import UsageError


@pytest.fixture(params=["local", "object store"])
def shards(request, tmp_path):
    if request.param == "local":
        return Shards.open(str(tmp_path / "new"))
    return Shards(fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem())), "/bucket/corpus")


def test_values_and_rows_are_read_one_by_one(shards):
    table = pa.table({"index": list(range(7)), "audio": [bytes([i]) for i in range(7)]})
    array = np.random.default_rng(0).standard_normal((7, 2, 3, 4)).astype(np.float16)
    assert shards.names() == []
    shards.write("clips-00000.parquet", table, group=3)
    shards.write_array("clips-00000.key.npy", array)
    assert shards.names() == ["clips-00000.parquet"] and len(shards.files()) == 2
    assert shards.table("clips-00000.parquet", ["index", "gone"]).column_names == ["index"]
    again = pickle.loads(pickle.dumps(shards)) if isinstance(shards.system, fs.LocalFileSystem) else shards
    for i in range(7):
        assert again.value("clips-00000.parquet", i, "audio") == bytes([i])
        assert np.array_equal(again.array_row("clips-00000.key.npy", i, 1), array[i, 1])
    with pytest.raises(IndexError):
        shards.value("clips-00000.parquet", 7, "audio")


def test_a_place_that_cannot_be_is_said():
    with pytest.raises(UsageError, match="nowhere://x"):
        Shards.open("nowhere://x")
