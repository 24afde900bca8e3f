import errno
import os

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipelines import sources
from pipelines.sources import find
from sqllm.errors import UsageError


@pytest.fixture
def tree(tmp_path):
    for name in ("calls/b.wav", "calls/a.flac", "calls/leg/c.OGG", "calls/notes.txt", "calls/._a.flac", "clean/a.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(table, column="uri"):
    return [name and "/".join(name.split("/")[-2:]) for name in table[column].to_pylist()]


def test_a_folder_is_searched_for_audio(tree):
    assert names(find([str(tree / "calls")])) == ["calls/a.flac", "calls/b.wav", "leg/c.OGG"]


def test_a_glob_and_a_file_are_taken_as_they_are(tree):
    assert names(find([str(tree / "calls/*.wav"), str(tree / "calls/notes.txt")])) == ["calls/b.wav", "calls/notes.txt"]


def test_every_recording_is_found_once_and_keeps_its_id(tree):
    twice = find([str(tree / "calls/b.wav"), str(tree / "calls")])
    assert names(twice) == ["calls/b.wav", "calls/a.flac", "leg/c.OGG"]
    again = find([str(tree / "calls")])
    assert set(again["recording_id"].to_pylist()) == set(twice["recording_id"].to_pylist())
    assert again.schema.field("recording_id").type == pa.int64()


def test_limit(tree):
    assert names(find([str(tree / "calls")], limit=2)) == ["calls/a.flac", "calls/b.wav"]


def test_references_pair_by_relative_name(tree):
    found = find([str(tree / "calls")], reference=str(tree / "clean"))
    assert names(found, "reference_uri") == ["clean/a.wav", None, None]


def test_one_reference_for_one_recording(tree):
    clean = str(tree / "clean/a.wav")
    assert names(find([str(tree / "calls/b.wav")], reference=clean), "reference_uri") == ["clean/a.wav"]
    with pytest.raises(UsageError, match="give a folder"):
        find([str(tree / "calls")], reference=clean)


def test_references_that_are_the_recordings_themselves(tree):
    found = find([str(tree / "calls")], reference=str(tree / "calls"))
    assert names(found) == names(found, "reference_uri") == ["calls/a.flac", "calls/b.wav", "leg/c.OGG"]


@pytest.mark.parametrize("batch", [1, 10_000])
def test_a_csv_manifest_carries_its_columns(tree, batch, monkeypatch):
    monkeypatch.setattr(sources, "BATCH", batch)
    manifest = tree / "list.csv"
    manifest.write_text(
        "uri,reference_uri,trunk,mos,site\ncalls/b.wav,clean/a.wav,007,3.5,\ncalls/gone.wav,,010,4,Ulm\n"
        "s3://bucket/x.wav,,1,,Bonn\n"
    )
    found = find([str(manifest)])
    assert found["uri"].to_pylist() == [str(tree / "calls/b.wav"), str(tree / "calls/gone.wav"), "s3://bucket/x.wav"]
    assert found["reference_uri"].to_pylist() == [str(tree / "clean/a.wav"), None, None]
    assert found["trunk"].to_pylist() == ["007", "010", "1"]
    assert found["given_mos"].to_pylist() == [3.5, 4.0, None]
    assert found["site"].to_pylist() == [None, "Ulm", "Bonn"]


def test_a_parquet_manifest_and_a_folder_together(tree):
    parquet.write_table(pa.table({"uri": ["b.wav"], "carrier": [3]}), tree / "calls/list.parquet")
    found = find([str(tree / "calls/list.parquet"), str(tree / "calls")])
    assert names(found) == ["calls/b.wav", "calls/a.flac", "leg/c.OGG"]
    assert found["carrier"].to_pylist() == [3, None, None]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("file,x\na.wav,1\n", "no column 'uri'"),
        ("uri,x\n,1\n", "row 1"),
        ("uri,x\na.wav\n", "cannot read"),
        ("", "read"),
    ],
)
def test_a_bad_manifest_is_refused(tree, content, reason):
    (tree / "list.csv").write_text(content)
    with pytest.raises(UsageError, match=reason):
        find([str(tree / "list.csv")])


@pytest.mark.parametrize(
    ("source", "reason"), [("none.wav", "no such file"), ("*.mp3", "nothing"), ("empty", "no rec")]
)
def test_a_source_that_is_not_there_is_refused(tree, source, reason):
    (tree / "empty").mkdir()
    with pytest.raises(UsageError, match=reason):
        find([str(tree / source)])


def test_manifests_that_do_not_fit_together_are_refused(tree):
    (tree / "one.csv").write_text("uri,trunk\na.wav,1\n")
    (tree / "two.csv").write_text("uri,trunk\nb.wav,x\n")
    with pytest.raises(UsageError, match="trunk"):
        find([str(tree / "one.csv"), str(tree / "two.csv")])


def test_a_name_that_is_not_utf8_is_refused(tree):
    open(bytes(tree / "calls") + b"/\xff.wav", "wb").close()
    with pytest.raises(UsageError, match="rename"):
        find([str(tree / "calls")])


def test_references_that_pair_with_nothing_are_refused(tree):
    (tree / "other").mkdir()
    with pytest.raises(UsageError, match="pairs"):
        find([str(tree / "calls")], reference=str(tree / "other"))
    with pytest.raises(UsageError, match="no such folder"):
        find([str(tree / "calls")], reference=str(tree / "absent"))


def test_a_folder_that_cannot_be_read_is_named(tree, monkeypatch):
    looked = os.scandir

    def closed(place):
        if str(place).endswith("leg"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return looked(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UsageError, match=r"cannot list .*/calls/leg: Permission denied"):
        find([str(tree / "calls")])


def test_hidden_files_are_found_by_those_who_ask_for_them(tree):
    assert names(find([str(tree / "calls/*.flac")])) == ["calls/a.flac"]
    assert names(find([str(tree / "calls/.*.flac")])) == ["calls/._a.flac"]


@pytest.mark.parametrize(("given", "reference"), [("", None), ("calls", "")])
def test_a_variable_that_is_not_set_is_said(tree, given, reference):
    with pytest.raises(UsageError, match="is a variable not set"):
        find([given and str(tree / given)], reference=reference)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("uri,uri\na,b\n", "two columns 'uri'"), ("uri,size,etag\na,large,x\n", "cannot read the manifest .*large")],
)
def test_a_manifest_of_the_wrong_shape_is_said(tmp_path, content, reason):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(UsageError, match=reason):
        find([str(tmp_path / "m.csv")])


@pytest.mark.parametrize(
    "name",
    [
        "{}/x.tar/./a/1.wav", "{}/x.parquet//data/a.wav", "s3://b/x.tar/./a/1.wav", "{}/calls/b.wav",
    ],
)  # fmt: skip
def test_a_manifest_gives_a_recording_the_name_that_its_source_gave(tree, name):
    name = name.format(tree)
    for manifest in (tree / "manifest.parquet", tree / "calls/m.parquet"):
        parquet.write_table(pa.table({"uri": [name]}), manifest)
        assert find([str(manifest)])["uri"].to_pylist() == [name]
    assert sources._beside("s3://b/calls", name) == name
    assert sources._beside("s3://b/calls", "leg/../x.wav") == "s3://b/calls/x.wav"
