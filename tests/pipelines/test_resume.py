"""A run that is started again, whatever has changed meanwhile. Ray has no part in that, so the stages run here."""

import errno
import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from pyarrow import dataset
from support.standin import fingerprints

from pipelines.results import Results
from pipelines.score import Settings, score
from pipelines.sources import find
from pipelines.stages import Part, rows_of
from sqllm.errors import UsageError
from sqllm.recording import cut

SETTINGS = Settings(actors=1, device="cpu")


@pytest.fixture
def calls(tmp_path, record):
    for name in ("a.wav", "b.wav", "c.wav"):
        record(tmp_path / "calls" / name, channels=2)
    (tmp_path / "calls/text.wav").write_text("not audio")
    return tmp_path / "calls"


def made_here(recordings, done, settings, load, watch, totals):
    """`pipelines.score._made` without Ray."""
    model = load(settings.model, "cpu", 1)
    for position in np.flatnonzero(~done).tolist():
        row = recordings.slice(position, 1).to_pylist()[0]
        chunks = list(cut(row["uri"], row["reference_uri"]))
        parts = [Part(chunk, len(chunks), *_scores(model, chunk, settings), 0.0) for chunk in chunks]
        yield position, [row | {"model": model.fingerprint} for row in rows_of(parts)], 0.0


def _scores(model, chunk, settings):
    try:
        return model.score_chunks([chunk], settings.profile)[0], model.fingerprint
    except RuntimeError as error:
        return {"error": str(error)}, model.fingerprint


@pytest.fixture
def night(calls, stand_in, monkeypatch):
    """night(settings) -> (totals, {name: rows}, the recordings that were scored) of a run over all calls."""
    monkeypatch.setattr("pipelines.score._made", made_here)

    def run(settings=SETTINGS, source=calls, **options):
        seen = []

        def watch(stage, totals):
            seen.append(stage)

        totals = score(find([str(source)], **options), calls.parent / "out", settings, stand_in, watch, fingerprints)
        rows = dataset.dataset(calls.parent / "out/scores" / totals.partitions[-1]).to_table().to_pylist()
        return totals, Counter(os.path.basename(row["uri"]) for row in rows), seen.count("scoring")

    return run


ALL = {"a.wav": 2, "b.wav": 2, "c.wav": 2, "text.wav": 1}


def test_a_finished_run_scores_nothing(night, calls, monkeypatch):
    first, rows, scored = night()
    assert rows == ALL and scored == 4
    files = sorted(path for path in (calls.parent / "out/scores").rglob("*"))
    monkeypatch.undo()
    monkeypatch.setattr("pipelines.score.start_ray", None)  # is not even asked
    again, rows, scored = night()
    assert rows == ALL and scored == 0 and again.kept == 4
    assert sorted(path for path in (calls.parent / "out/scores").rglob("*")) == files
    ours, theirs = again.as_dict(), first.as_dict()
    same = ("finished", "model", "partitions", "recordings", "done", "failed", "rows", "status", "error_codes", "hours")
    assert {name: ours[name] for name in (*same, "mean_scores")} == {
        name: theirs[name] for name in (*same, "mean_scores")
    }


def test_a_run_goes_on_with_what_is_new(night, calls, record):
    _, rows, scored = night(limit=2)
    assert rows == {"a.wav": 2, "b.wav": 2} and scored == 2
    record(calls / "new.wav")
    totals, rows, scored = night()
    assert rows == ALL | {"new.wav": 1} and scored == 3 and totals.kept == 2


def test_what_has_changed_is_scored_again(night, calls, record):
    night()
    record(calls / "b.wav", seconds=3.0, channels=2)
    record(calls / "text.wav")
    totals, rows, scored = night()
    assert rows == ALL and scored == 2 and totals.failed == 0
    assert totals.audio_s == pytest.approx(2 + 3 + 2 + 2, abs=0.01)


def test_another_reference_is_another_score(night, calls, record):
    night()
    record(calls.parent / "clean/c.wav")
    _, rows, scored = night(reference=str(calls.parent / "clean"))
    assert rows == ALL and scored == 1
    _, rows, scored = night()
    assert rows == ALL and scored == 1


def test_a_failure_that_may_pass_is_tried_again(night, calls):
    shutil.copy(calls / "a.wav", calls / "poison.wav")
    totals, rows, _ = night()
    assert rows == ALL | {"poison.wav": 2} and totals.codes == {"DECODE": 1, "MODEL": 2}
    totals, rows, scored = night()
    assert rows == ALL | {"poison.wav": 2} and scored == 1 and totals.codes == {"DECODE": 1, "MODEL": 2}


def test_another_setting_has_another_partition(night, calls):
    plain, _, _ = night()
    (closed,) = (calls.parent / "out/scores").rglob("_SUCCESS")
    strict, rows, scored = night(Settings(actors=1, device="cpu", profile="expert", explain="below=2.5", level=-26.0))
    assert rows == ALL and scored == 4
    assert plain.partitions == ["fingerprint=stand-in"] and closed.exists()
    assert strict.partitions == ["fingerprint=stand-in_profile-expert_level--26_explain-below-2.5"]
    results = Results.open(calls.parent / "out")
    assert set(results.data.to_table()["profile"].to_pylist()) == {"expert"}


def test_the_commit_file_closes_a_run_and_the_next_one_opens_it(night, calls, record):
    night()
    (closed,) = (calls.parent / "out/scores").rglob("_SUCCESS")
    assert json.loads(closed.read_text())["rows"] == 7
    record(calls / "new.wav")
    with pytest.raises(ZeroDivisionError):
        stop_in_the_middle(night)
    assert not closed.exists() and not Results.open(calls.parent / "out").summary["finished"]
    night()
    assert json.loads(closed.read_text())["rows"] == 8


def stop_in_the_middle(night):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.score.commit", lambda *_: None)
        patch.setattr("pipelines.score.Totals.add", lambda *_: 1 / 0)
        night()


def test_the_manifest_grows_and_is_a_source(night, calls, record):
    night(limit=2)
    place = str(calls.parent / "out/manifest.parquet")
    assert find([place]).equals(find([str(calls)], limit=2))
    (calls / "a.wav").unlink()
    record(calls / "new.wav")
    night()
    names = [os.path.basename(uri) for uri in find([place])["uri"].to_pylist()]
    assert names == ["b.wav", "c.wav", "new.wav", "text.wav", "a.wav"]


def test_a_recording_that_two_runs_have_written_is_scored_once_more(night, calls):
    """The first of them stood still in a write while the second took over."""
    night()
    [part] = (calls.parent / "out/scores").rglob("*.parquet")
    shutil.copy(part, part.with_name("part-other-00000.parquet"))
    totals, rows, scored = night()
    assert rows == ALL and scored == 4 and totals.kept == 0
    assert night()[2] == 0


def test_a_reference_that_was_not_there_is_tried_again(night, calls, record):
    manifest = calls.parent / "m.csv"
    manifest.write_text(f"uri,reference_uri\n{calls}/a.wav,clean/a.wav\n{calls}/b.wav,\n")
    assert night(source=manifest)[1:] == ({"a.wav": 2, "b.wav": 2}, 2)
    assert night(source=manifest)[2] == 1  # it is still not there
    record(calls.parent / "clean/a.wav", channels=2)
    assert night(source=manifest)[1:] == ({"a.wav": 2, "b.wav": 2}, 1)
    assert night(source=manifest)[2] == 0


def test_a_part_that_is_broken_is_named(night, calls):
    night()
    [part] = (calls.parent / "out/scores").rglob("*.parquet")
    part.write_bytes(b"")
    with pytest.raises(UsageError, match=f"{part.name} is broken .* remove it"):
        night()


def test_a_folder_that_cannot_be_looked_into_stops_the_run(night, calls, monkeypatch):
    """Else all of it would be scored again, beside what is there."""
    night()
    looked = os.scandir

    def stale(place):
        if "fingerprint" in str(place):
            raise OSError(errno.ESTALE, "Stale file handle", str(place))
        return looked(place)

    monkeypatch.setattr(os, "scandir", stale)
    with pytest.raises(UsageError, match="Stale file handle"):
        night()


def test_a_disk_that_is_full_is_told_in_words(night, calls, record, monkeypatch):
    night(limit=2)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipelines.score.write_summary", full)
    with pytest.raises(UsageError, match=r"cannot write to --out .*: No space left on device.* goes on"):
        night()
    monkeypatch.undo()


def test_a_column_that_becomes_something_else_is_refused_at_once(night, calls):
    manifest = calls.parent / "m.csv"
    manifest.write_text(f"uri,trunk,agent\n{calls}/a.wav,7,\n")
    night(source=manifest)
    manifest.write_text(f"uri,trunk,agent\n{calls}/a.wav,7,3\n{calls}/b.wav,8,4\n")  # an empty column is words
    assert night(source=manifest)[1:] == ({"a.wav": 2, "b.wav": 2}, 1)
    rows = dataset.dataset(calls.parent / "out/scores").to_table().to_pylist()
    assert {(row["trunk"], row["agent"]) for row in rows} == {(7, None), (8, "4")}
    manifest.write_text(f"uri,trunk,agent\n{calls}/a.wav,7,3\n{calls}/c.wav,7a,4\n")
    with pytest.raises(UsageError, match="give another --out"):
        night(source=manifest)
