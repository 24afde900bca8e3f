import json
import shutil

import numpy as np
import pytest

from sqllm.corpus import manifest, rated
from sqllm.corpus.shards import samples
from sqllm.errors import UsageError


def left_out(table):
    return json.loads(table.schema.metadata[rated.LEFT_OUT.encode()])


def test_recordings_become_windows_with_their_references(nisqa):
    known = rated.rows(manifest.read(nisqa))
    assert {row["split"] for row in known} == {"train", "val"} and len(known) == 16
    [(name, recordings)] = rated.shards(known)
    table = rated.table(recordings)
    clips = table.to_pylist()
    assert name == "clips-00000.parquet" and left_out(table) == []
    long = [clip for clip in clips if clip["uri"].endswith("NISQA_TRAIN_SIM/deg/0.wav")]
    assert [len(samples(clip["audio"])) for clip in long] == [160_000, 160_000] and not any(c["paired"] for c in long)
    assert len({clip["recording"] for clip in long}) == 1 and len({clip["index"] for clip in clips}) == len(clips)
    paired = next(clip for clip in clips if clip["uri"].endswith("NISQA_TRAIN_SIM/deg/1.wav"))
    audio, reference = samples(paired["audio"]), samples(paired["reference"])
    assert len(audio) == len(reference) == 48_000 and np.corrcoef(audio, reference)[0, 1] > 0.3
    assert paired["noi"] is not None and long[0]["noi"] is None and long[0]["mos_std"] == 0.7


def test_what_cannot_be_used_is_said_and_loses_nothing_else(nisqa, tmp_path):
    shutil.copytree(nisqa, tmp_path / "n")
    (tmp_path / "n/NISQA_TRAIN_SIM/deg/1.wav").write_text("no audio")
    (tmp_path / "n/NISQA_TRAIN_SIM/ref/2.wav").unlink()
    [(_, recordings)] = rated.shards(rated.rows(manifest.read(tmp_path / "n")))
    table = rated.table(recordings)
    problems = left_out(table)
    assert len(problems) == 2 and "deg/1.wav: " in problems[0] and "the reference of" in problems[1]
    assert len(set(table["recording"].to_pylist())) == 15


def test_a_shard_is_known_by_what_is_in_it(nisqa):
    known = rated.rows(manifest.read(nisqa))
    assert rated.key(known) == rated.key(rated.rows(manifest.read(nisqa)))
    assert rated.key(known) != rated.key([known[0] | {"mos": 1.5}, *known[1:]])


def read(tmp_path, lines):
    (tmp_path / "r.csv").write_text("\n".join(["uri,mos,speaker,condition,split", *lines]) + "\n")
    return rated.rows(manifest.read(tmp_path / "r.csv"))


def test_without_a_split_whole_groups_are_kept_for_validation(tmp_path):
    rows = read(tmp_path, [f"{i}.wav,3,s{i // 4},c{i // 4}{i % 2}," for i in range(40)])
    val = [row for row in rows if row["split"] == "val"]
    assert len(rows) == 40 and len(val) == 4 and len({row["speaker"] for row in val}) == 1
    assert read(tmp_path, [f"{i}.wav,3,s{i // 4},c{i // 4}{i % 2}," for i in range(40)]) == rows


def test_a_split_that_cannot_be_or_that_leaks_is_refused(tmp_path):
    with pytest.raises(UsageError, match="hang together"):
        read(tmp_path, [f"{i}.wav,3,s{i % 4},c{i % 3}," for i in range(12)])
    with pytest.raises(UsageError, match=r"speaker.*train and val.*anna"):
        read(tmp_path, ["a.wav,3,anna,,train", "b.wav,3,anna,,val"])
    with pytest.raises(UsageError, match=r"such as c1 \(a column `set`"):
        read(tmp_path, ["a.wav,3,,c1,train", "b.wav,3,,c1,val"])
    with pytest.raises(UsageError, match="split says 'dev'"):
        read(tmp_path, ["a.wav,3,anna,,train", "b.wav,3,berta,,dev"])


@pytest.mark.parametrize(("sizes", "val"), [((90, 10), 10), ((60, 40), 40), ((50, 30, 10, 10), 10)])
def test_validation_takes_no_more_than_it_needs(tmp_path, sizes, val):
    rows = read(tmp_path, [f"{s}-{i}.wav,3,s{s},," for s, size in enumerate(sizes) for i in range(size)])
    assert sum(row["split"] == "val" for row in rows) == val


def test_votes_of_one_recording_stay_together():
    empty = dict.fromkeys(("speaker", "condition", "set", "split"))
    votes = rated._divided([empty | {"uri": f"{n}.wav"} for n in range(40) for _ in range(3)])
    of = {uri: {row["split"] for row in votes if row["uri"] == uri} for uri in {row["uri"] for row in votes}}
    assert all(len(splits) == 1 for splits in of.values()) and set().union(*of.values()) == {"train", "val"}
