"""`sqllm.storage`, the sources and the whole job against a real S3 server."""

import json
import shutil
import threading
import time
from io import StringIO

import numpy as np
import pyarrow as pa
import pytest
import s3fs
import soundfile
from pyarrow import parquet
from rich.console import Console

from pipelines import lease, report
from pipelines.results import Results
from pipelines.score import Settings, score
from pipelines.sources import find
from pipelines.summary import show
from sqllm import storage
from sqllm.audio import io
from sqllm.corpus.shards import Shards
from sqllm.errors import AudioError, UsageError

pytestmark = pytest.mark.timeout(180)
NAMES = ("night/leg a/1.wav", "night/leg a/2#ü.flac", "night/b.wav", "night/notes.txt", "clean/leg a/1.wav")


@pytest.fixture
def calls(s3_server, bucket, tmp_path, record):
    """Recordings of 2 s in a bucket, and its URI."""
    for name in NAMES:
        record(tmp_path / "here" / name.replace(".txt", ".wav"))
        s3_server.direct.put_file(str(tmp_path / "here" / name.replace(".txt", ".wav")), f"{bucket}/{name}")
    shutil.rmtree(tmp_path / "here")
    return bucket


def put(s3_server, uri, content):
    s3_server.direct.pipe_file(uri, content)


def below(table, calls, column="uri"):
    return [uri and uri.removeprefix(f"{calls}/") for uri in table[column].to_pylist()]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_is_searched_for_audio(calls, slash):
    found = find([f"{calls}/night{slash}"])
    assert below(found, calls) == ["night/b.wav", "night/leg a/1.wav", "night/leg a/2#ü.flac"]
    assert all(found["etag"].to_pylist()) and found["size"].to_pylist()[0] > 60_000


def test_a_prefix_is_listed_page_by_page(calls, s3_server, monkeypatch):
    put(s3_server, f"{calls}/night/leg b/", b"")  # a folder, as a store's own console makes it
    call, pages = s3fs.S3FileSystem.call_s3, []

    def by_twos(files, method, **asked):
        pages.append(call(files, method, MaxKeys=2, **asked))
        return pages[-1]

    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", by_twos)
    found = [file.uri.removeprefix(f"{calls}/") for file in storage.below(calls)]
    assert found == sorted(NAMES) and len(pages) == 3
    assert not list(storage.below(f"{calls}/nigh"))


def test_globs_and_single_objects(calls):
    found = find([f"{calls}/night/**/*.wav", f"{calls}/night/notes.txt"])
    assert below(found, calls) == ["night/b.wav", "night/leg a/1.wav", "night/notes.txt"]
    assert find([f"{calls}/night/b.wav"])["recording_id"][0] == found["recording_id"][0]


def test_references_pair_by_relative_name(calls):
    found = find([f"{calls}/night"], reference=f"{calls}/clean")
    assert below(found, calls, "reference_uri") == [None, "clean/leg a/1.wav", None]


def test_manifests_in_the_bucket(calls, s3_server, tmp_path):
    put(s3_server, f"{calls}/night/list.csv", b"uri,trunk,size\nleg a/1.wav,007,3\n../clean/leg a/1.wav,,4\n")
    found = find([f"{calls}/night/list.csv"])
    assert below(found, calls) == ["night/leg a/1.wav", "clean/leg a/1.wav"]
    assert found["trunk"].to_pylist() == ["007", None] and found["given_size"].to_pylist() == [3, 4]
    parquet.write_table(find([f"{calls}/night"]), tmp_path / "manifest.parquet")
    again = find([str(tmp_path / "manifest.parquet")])
    assert again.equals(find([f"{calls}/night"]))


def test_what_is_not_there_is_said(calls):
    for source, reason in (("none", "no such file"), ("*.mp3", "nothing matches"), ("list.csv", "no such")):
        with pytest.raises(UsageError, match=reason):
            find([f"{calls}/night/{source}"])
    with pytest.raises(UsageError, match="s3://no-such-bucket"):
        find(["s3://no-such-bucket/x"])
    with pytest.raises(UsageError, match="warp://"):
        find(["warp://x"])


def test_a_wrong_key_is_said_and_not_tried_again(calls, s3_server, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setitem(storage.OPTIONS, "s3", storage.OPTIONS["s3"] | {"skip_instance_cache": True})
    before = s3_server.requests
    with pytest.raises(UsageError, match="cannot list s3://"):
        find([f"{calls}/night/b.wav"])
    with pytest.raises(AudioError, match="NOT_FOUND: cannot be read"):
        io.load(f"{calls}/night/b.wav", 60)
    assert s3_server.requests - before < 8


def test_a_long_recording_is_read_in_pieces(calls, s3_server, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 500 * 16000), 16000)
    s3_server.direct.put_file(str(tmp_path / "long.wav"), f"{calls}/long.wav")
    with io.open_sound(f"{calls}/long.wav") as sound:
        before = s3_server.requests
        for seconds, _ in enumerate(sound.blocks):
            if seconds == 200:
                break
        assert 0 < s3_server.requests - before < 5
    assert io.load(f"{calls}/long.wav", 600).shape == (1, 500 * 16000)


def test_a_store_that_stops_giving_is_no_short_recording(calls, monkeypatch):
    fetch = s3fs.core.S3File._fetch_range

    def stop(self, start, end):
        if start:
            raise OSError("gone")
        return fetch(self, start, end)

    monkeypatch.setattr(storage, "AHEAD", 20_000)
    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", stop)
    with pytest.raises(AudioError, match="NOT_FOUND: reading stopped: OSError: gone"):
        io.load(f"{calls}/night/b.wav", 60)


def test_a_store_that_fails_now_and_then_is_asked_again(calls, s3_server):
    with s3_server.faulty(0.3) as faults:
        for n in range(15):
            storage.write(f"{calls}/written/{n}", bytes([n]) * 100_000)
        assert [len(storage.read(f"{calls}/written/{n}")) for n in range(15)] == [100_000] * 15
        assert len(list(storage.below(f"{calls}/written"))) == 15
        with pytest.raises(FileNotFoundError):
            storage.read(f"{calls}/written/none")
    assert set(faults) == {"503", "dropped before", "dropped after", "half"}


def test_a_file_that_is_replaced_all_the_time_can_be_read(calls):
    ended = threading.Event()

    def replace():
        while not ended.is_set():
            for content in (b"old", b"new, and longer"):
                storage.write(f"{calls}/state", content)

    storage.write(f"{calls}/state", b"old")
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert {storage.read(f"{calls}/state") for _ in range(300)} == {b"old", b"new, and longer"}
    finally:
        ended.set()
        writer.join()


def test_from_bucket_to_bucket(local_ray, calls, stand_in):
    out = f"{calls}/scores of/night"
    recordings = find([f"{calls}/night"], reference=f"{calls}/clean")
    gone = pa.table({"recording_id": [7], "uri": [f"{calls}/gone.wav"]})
    recordings = pa.concat_tables([recordings, gone], promote_options="default")
    totals = score(recordings, out, Settings(actors=1, device="cpu"), stand_in)
    results = Results.open(out)
    rows = {row["uri"].removeprefix(f"{calls}/"): row for row in results.data.to_table().to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        **dict.fromkeys(("night/b.wav", "night/leg a/1.wav", "night/leg a/2#ü.flac"), "ok"), "gone.wav": "failed",
    }  # fmt: skip
    assert rows["gone.wav"]["error_code"] == "NOT_FOUND" and rows["night/leg a/1.wav"]["alignment"]["used"]
    assert results.summary["finished"] and results.summary["status"] == totals.status == {"ok": 3, "failed": 1}
    show(out, console := Console(width=120, record=True, file=StringIO()))
    assert "3 ok" in console.export_text()
    assert json.loads(storage.read(f"{out}/scores/{totals.partitions[0]}/_SUCCESS"))["rows"] == 4
    assert report.write(out).place == f"{out}/report.html" and storage.stat(f"{out}/report.html").size > 10_000


@pytest.mark.parametrize(("moment", "done"), [("loading the model", 0), ("scoring", 3)])
def test_a_run_that_another_took_over_stops_and_writes_nothing(local_ray, calls, stand_in, monkeypatch, moment, done):
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    out = f"{calls}/taken"

    def take_over(stage, totals):
        if (stage, totals.done) == (moment, done):
            while storage.read(f"{out}/.lease") != b"of another run":  # a renewal may have been on its way
                storage.write(f"{out}/.lease", b"of another run")
                time.sleep(1)

    with pytest.raises(UsageError, match="another took over"):
        score(find([f"{calls}/night"]), out, Settings(actors=1, device="cpu"), stand_in, take_over)
    assert storage.read(f"{out}/.lease") == b"of another run"
    assert storage.info(f"{out}/scores")[0] != "directory"


def test_shards_of_a_corpus(s3_server, bucket):
    shards = Shards.open(f"{bucket}/corpus")
    assert shards.names() == []
    shards.write("clips-00000.parquet", pa.table({"n": [1, 2, 3]}), group=1)
    shards.write_array("features.npy", np.arange(6).reshape(3, 2))
    again = Shards.open(f"{bucket}/corpus")
    assert again.names() == ["clips-00000.parquet"] and again.value("clips-00000.parquet", 1, "n") == 2
    assert again.array_row("features.npy", 2).tolist() == [4, 5]
