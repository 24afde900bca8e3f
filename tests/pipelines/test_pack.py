import json

import pytest
from pyarrow import dataset, parquet

from pipelines.cli import main
from pipelines.pack import pack
from pipelines.score import Settings, score
from pipelines.sources import find
from sqllm.errors import UsageError

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def calls(tmp_path, record):
    """Ten recordings in two folders, of which one has a reference and one is gone, with trunks."""
    lines = ["uri,reference_uri,trunk"]
    for i in range(9):
        record(tmp_path / f"calls/{i % 2}/{i}.wav", seconds=1.0 + i / 4)
        lines.append(f"calls/{i % 2}/{i}.wav,{'calls/1/1.wav' if i == 1 else ''},t{i % 3}")
    lines.append("calls/0/gone.wav,,t0")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    return tmp_path


def test_packed_recordings_score_as_loose_ones_do(local_ray, calls, stand_in):
    counts = pack(find([str(calls / "list.csv")]), str(calls / "packed"), shard_bytes=200_000)
    assert counts["recordings"] == 10 and counts["unread"] == 1 and counts["shards"] > 2
    shards = sorted((calls / "packed").iterdir())
    assert [s.name for s in shards] == [f"part-{n:05d}.parquet" for n in range(counts["shards"])]
    assert parquet.read_table(shards[0])["uri"][0].as_py() == "0/0.wav"
    found = {}
    for name, source in (("loose", calls / "list.csv"), ("packed", calls / "packed")):
        score(find([str(source)]), calls / name, Settings(actors=2, device="cpu"), stand_in)
        rows = dataset.dataset(calls / name / "scores").to_table().to_pylist()
        found[name] = {"/".join(row["uri"].split("/")[-2:]): row for row in rows}
    assert set(found["loose"]) == set(found["packed"]) and len(found["loose"]) == 10
    for name, loose in found["loose"].items():
        packed = found["packed"][name]
        for column in ("status", "error_code", "mos", "duration_s", "evidence", "trunk"):
            assert packed[column] == loose[column], (name, column)
        assert (packed["alignment"] is None) == (loose["alignment"] is None)
    assert found["packed"]["0/gone.wav"]["error_code"] == "NOT_FOUND"


def test_the_command(local_ray, calls, capsys):
    with pytest.raises(SystemExit) as end:
        main(["pack", str(calls / "calls"), "--out", str(calls / "packed")])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "9 recordings" in out and "1 shard" in out
    assert len(find([str(calls / "packed")])) == 9


def test_a_tar_is_a_source(tmp_path, record):
    import tarfile

    record(tmp_path / "a.wav")
    (tmp_path / "a.json").write_text(json.dumps({"mos": 3.5, "trunk": "x"}))
    with tarfile.open(tmp_path / "calls.tar", "w") as out:
        for name in ("a.wav", "a.json"):
            out.add(tmp_path / name, name)
    (row,) = find([str(tmp_path / "calls.tar")]).to_pylist()
    assert row["uri"] == f"{tmp_path}/calls.tar/a.wav" and row["given_mos"] == 3.5 and row["trunk"] == "x"
    assert {r["uri"] for r in find([str(tmp_path)]).to_pylist()} == {str(tmp_path / "a.wav"), row["uri"]}


def test_a_broken_shard_costs_only_itself(local_ray, tmp_path, record, stand_in):
    record(tmp_path / "calls/a.wav")
    (tmp_path / "calls/b.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "calls/c.parquet").write_bytes(b"no Parquet")
    score(find([str(tmp_path / "calls")]), tmp_path / "out", Settings(actors=1, device="cpu"), stand_in)
    rows = dataset.dataset(tmp_path / "out/scores").to_table().to_pylist()
    found = {row["uri"].split("/")[-1]: row["error_code"] for row in rows}
    assert found == {"a.wav": None, "b.tar": "DECODE", "c.parquet": "DECODE"}
    with pytest.raises(UsageError, match="cannot read the shard"):
        find([str(tmp_path / "calls/b.tar")])
