import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from pyarrow import parquet

from sqllm import recording
from sqllm.audio import packed
from sqllm.errors import AudioError, UsageError


def wav(seconds: float, seed: int = 0) -> bytes:
    t = np.arange(int(seconds * 16000)) / 16000
    sink = io.BytesIO()
    soundfile.write(sink, np.random.default_rng(seed).normal(0, 0.05, len(t)) * (t % 1 < 0.6), 16000, format="WAV")
    return sink.getvalue()


def tar(path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.fixture
def shard(tmp_path):
    """Three recordings in row groups of two; the second has a reference, the third could not be read."""
    table = pa.table(
        {
            "uri": ["a/1.wav", "a/2.wav", "b/3.wav"],
            "audio": pa.array([wav(1), wav(2), None], pa.binary()),
            "reference": pa.array([None, wav(2), None], pa.binary()),
            "trunk": ["x", "y", "y"],
        }
    )
    parquet.write_table(table, tmp_path / "part-0.parquet", row_group_size=2)
    return str(tmp_path / "part-0.parquet")


def test_a_parquet_shard(shard):
    assert packed.is_shard(shard)
    rows = packed.listed(shard).to_pylist()
    assert [row["uri"] for row in rows] == [f"{shard}/{name}" for name in ("a/1.wav", "a/2.wav", "b/3.wav")]
    assert [row["reference_uri"] for row in rows] == [None, f"{shard}/a/2.wav#reference", None]
    assert [row["trunk"] for row in rows] == ["x", "y", "y"]
    (chunk,) = recording.cut(rows[1]["uri"], rows[1]["reference_uri"])
    assert chunk.row["duration_s"] == 2 and chunk.row["alignment"]["used"]
    (chunk,) = recording.cut(rows[2]["uri"])
    assert (chunk.row["error_code"], chunk.row["uri"]) == ("NOT_FOUND", rows[2]["uri"])


def test_audio_as_hugging_face_has_it(tmp_path):
    audio = pa.array([{"bytes": wav(1), "path": "1.wav"}])
    parquet.write_table(pa.table({"uri": ["1.wav"], "audio": audio}), tmp_path / "hf.parquet")
    assert packed.read(*packed.split(f"{tmp_path}/hf.parquet/1.wav")) == wav(1)


def test_a_webdataset(tmp_path):
    files = {
        "calls/1.wav": wav(1),
        "calls/1.json": json.dumps({"trunk": 7, "more": {"left": "out"}}).encode(),
        "calls/2.wav": wav(3),
        "calls/2.reference.wav": wav(3),
    }
    shard = tar(tmp_path / "calls.tar", files)
    assert packed.is_shard(shard)
    first, second = packed.listed(shard).to_pylist()
    assert first == {"uri": f"{shard}/calls/1.wav", "reference_uri": None, "trunk": 7}
    assert second["reference_uri"] == f"{shard}/calls/2.reference.wav" and second["trunk"] is None
    (chunk,) = recording.cut(second["uri"], second["reference_uri"])
    assert chunk.row["duration_s"] == 3 and chunk.row["alignment"]["used"]


def test_what_is_not_there_is_said(shard, tmp_path):
    for name, code in ((f"{shard}/none.wav", "NOT_FOUND"), (f"{tmp_path}/none.tar/a.wav", "NOT_FOUND")):
        (chunk,) = recording.cut(name)
        assert chunk.row["error_code"] == code and chunk.row["status"] == "failed"
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 200)
    assert next(recording.cut(f"{tmp_path}/broken.tar/a.wav")).row["error_code"] == "DECODE"
    with pytest.raises(UsageError, match=r"cannot read the shard .*broken\.tar"):
        packed.listed(str(tmp_path / "broken.tar"))
    parquet.write_table(pa.table({"audio": [b""]}), tmp_path / "nameless.parquet")
    with pytest.raises(UsageError, match="no column 'uri'"):
        packed.listed(str(tmp_path / "nameless.parquet"))
    with pytest.raises(AudioError):
        packed.read(shard, "b/3.wav")


def test_manifests_and_folders_are_no_shards(tmp_path):
    parquet.write_table(pa.table({"uri": ["a.wav"]}), tmp_path / "manifest.parquet")
    assert not packed.is_shard(str(tmp_path / "manifest.parquet"))
    (tmp_path / "calls.tar").mkdir()
    (tmp_path / "calls.tar/a.wav").write_bytes(wav(1))
    assert packed.split(f"{tmp_path}/calls.tar/a.wav") is None
    assert packed.split("/data/a.wav") is None
    assert next(recording.cut(f"{tmp_path}/calls.tar/a.wav")).row["status"] == "ok"


def test_what_computers_put_beside_recordings_is_left_out_of_a_tar(tmp_path):
    shard = tar(tmp_path / "x.tar", {name: wav(1) for name in ("./a/1.wav", "./a/._1.wav", ".DS_Store", "._2.wav")})
    assert packed.listed(shard)["uri"].to_pylist() == [f"{shard}/./a/1.wav"]


def test_what_samples_do_not_agree_on_becomes_words(tmp_path):
    notes = {
        "a.json": b'{"agent": 7, "n": 1}',
        "b.json": b'{"agent": "x7", "n": 36893488147419103232}',
        "c.json": b"{}",
    }
    shard = tar(tmp_path / "x.tar", {f"{n}.wav": wav(1) for n in "abc"} | notes)
    rows = packed.listed(shard).to_pylist()
    assert [row["agent"] for row in rows] == ["7", "x7", None]
    assert [row["n"] for row in rows] == ["1", "36893488147419103232", None]


def test_a_name_that_is_not_utf_8_is_said(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as out:
        out.addfile(tarfile.TarInfo("caf\xe9.wav"), io.BytesIO())
    with pytest.raises(UsageError, match=r"not UTF-8: '.*caf.udce9"):
        packed.listed(f"{tmp_path}/x.tar")


@pytest.mark.parametrize("folder", ["calls.parquet", "calls.tar"])
def test_shards_in_a_folder_that_is_called_like_one(tmp_path, folder):
    (tmp_path / folder).mkdir()
    shard = tar(tmp_path / folder / "part-0.tar", {"x.parquet/a.wav": wav(1)})
    [row] = packed.listed(shard).to_pylist()
    assert packed.split(row["uri"]) == (shard, "x.parquet/a.wav")
    assert packed.read(*packed.split(row["uri"])) == wav(1)


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_shard_that_is_replaced_gives_no_recording_under_another_name(tmp_path, ending):
    shard, sounds = f"{tmp_path}/x.{ending}", {"a.wav": wav(1, 1), "b.wav": wav(1, 2)}
    for names in (["a.wav", "b.wav"], ["b.wav", "a.wav"]):
        content = {name: sounds[name] for name in names}
        if ending == "tar":
            tar(tmp_path / "new", content)
        else:
            parquet.write_table(pa.table({"uri": names, "audio": list(content.values())}), tmp_path / "new")
        (tmp_path / "new").rename(shard)
        assert packed.read(shard, "a.wav") == sounds["a.wav"]


def test_two_recordings_of_one_name_are_said(tmp_path):
    parquet.write_table(
        pa.table({"uri": ["a.wav", "b.wav", "a.wav"], "audio": [b"1", b"2", b"3"]}), tmp_path / "x.parquet"
    )
    with pytest.raises(UsageError, match="two recordings"):
        packed.listed(f"{tmp_path}/x.parquet")
