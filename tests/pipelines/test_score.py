import json

import numpy as np
import pytest
import soundfile
from pyarrow import dataset
from support.standin import fingerprints

from pipelines.score import Settings, score
from pipelines.sources import find
from pipelines.stages import Part, rows_of
from sqllm.errors import UsageError
from sqllm.recording import ROW_FIELDS, cut

pytestmark = pytest.mark.timeout(180)

GOOD = {
    **{f"pcm{bits}.wav": {"subtype": f"PCM_{bits}"} for bits in (16, 24, 32)},
    "pcm8.wav": {"subtype": "PCM_U8"},
    "float.wav": {"subtype": "FLOAT"},
    "mulaw.wav": {"subtype": "ULAW", "rate": 8000},
    "alaw.wav": {"subtype": "ALAW", "rate": 8000},
    "gsm.wav": {"subtype": "GSM610", "rate": 8000},
    "adpcm.wav": {"subtype": "MS_ADPCM", "rate": 8000},
    "hires.flac": {"rate": 96000},
    "vorbis.ogg": {"subtype": "VORBIS", "rate": 44100},
    "opus.ogg": {"subtype": "OPUS", "rate": 48000},
    "layer3.mp3": {"rate": 22050},
    "six.wav": {"channels": 6},
    "long.wav": {"seconds": 25.0, "channels": 2},
}
BAD = {
    "text.wav": "DECODE",
    "empty.wav": "EMPTY",
    "truncated.flac": "DECODE",
    "nan.wav": "NONFINITE",
    "silence.wav": "SILENT",
    "blip.wav": "TOO_SHORT",
    "poison.wav": "MODEL",
    "gone.wav": "NOT_FOUND",
}


@pytest.fixture
def folder(tmp_path, record):
    """Good recordings of every kind beside every kind of bad one, and a manifest of them all."""
    for name, kind in GOOD.items():
        record(tmp_path / name, **kind)
    (tmp_path / "text.wav").write_text("this is not audio\n" * 100)
    (tmp_path / "empty.wav").write_bytes(b"")
    whole = record(tmp_path / "truncated.flac", seconds=5.0).read_bytes()
    (tmp_path / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    samples = soundfile.read(tmp_path / "float.wav")[0]
    samples[1000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
    record(tmp_path / "blip.wav", seconds=0.1)
    record(tmp_path / "poison.wav")
    lines = [f"{name},{number % 3:03}" for number, name in enumerate((*GOOD, *BAD))]
    (tmp_path / "list.csv").write_text("\n".join(["uri,trunk", *lines]))
    return tmp_path


def test_a_full_table_with_the_right_codes(local_ray, folder, stand_in):
    seen = []
    recordings = find([str(folder / "list.csv")])
    settings = Settings(actors=2, profile="expert", device="cpu")
    totals = score(recordings, folder / "out", settings, stand_in, watch=lambda stage, _: seen.append(stage))

    table = dataset.dataset(folder / "out/scores").to_table()
    assert table.schema.names == [*ROW_FIELDS, "size", "etag", "trunk"]
    rows = {}
    for row in table.to_pylist():
        rows.setdefault(row["uri"].split("/")[-1], []).append(row)
    assert set(rows) == {*GOOD, *BAD}
    for name in GOOD:
        assert [row["channel"] for row in rows[name]] == list(range(GOOD[name].get("channels", 1)))
        for row in rows[name]:
            assert (row["status"], row["error_code"]) == ("ok", None), row
            assert row["noi"] == 2 and row["loud_std"] == 0.5 and row["evidence"]["level_db"] < 0
            assert (row["model"], row["profile"], row["explanation"]) == ("stand-in", "expert", "expert")
    assert [len(row["windows"]) for row in rows["long.wav"]] == [3, 3]
    assert rows["long.wav"][0]["worst_start_s"] == 0 and rows["long.wav"][0]["windows"][2]["end_s"] == 25
    for name, code in BAD.items():
        (row,) = rows[name]
        assert row["error_code"] == code, row
        assert row["status"] == ("skipped" if code in ("SILENT", "TOO_SHORT") else "failed")
        assert row["error_detail"] and row["mos"] is None and row["scored_at"] and row["model"]
    assert {row["trunk"] for row in table.to_pylist()} == {"000", "001", "002"}
    assert set(table["recording_id"].to_pylist()) == set(recordings["recording_id"].to_pylist())

    summary = json.loads((folder / "out/summary.json").read_text())
    clocks = ("elapsed_s", "scoring_s", "times_real_time", "recordings_per_s", "updated_at")
    assert summary == totals.as_dict() | {key: summary[key] for key in clocks}
    assert summary["finished"] and summary["done"] == summary["recordings"] == len(GOOD) + len(BAD)
    assert summary["error_codes"] == {code: list(BAD.values()).count(code) for code in BAD.values()}
    assert summary["failed"] == 6 and seen[0] == "starting Ray" and seen.count("scoring") == summary["done"]


def test_long_recordings_arrive_whole_from_many_chunks(local_ray, tmp_path, record, stand_in):
    record(tmp_path / "hour.flac", seconds=700.0, rate=8000, channels=2)
    score(find([str(tmp_path)]), tmp_path / "out", Settings(actors=2, device="cpu"), stand_in)
    rows = dataset.dataset(tmp_path / "out/scores").to_table().to_pylist()
    assert [len(row["windows"]) for row in rows] == [70, 70]
    assert [window["start_s"] for window in rows[1]["windows"]] == [10.0 * n for n in range(70)]


def test_some_windows_of_each_call(local_ray, tmp_path, record, stand_in):
    record(tmp_path / "long.wav", seconds=200.0, channels=2)
    record(tmp_path / "short.wav", seconds=15.0)
    settings = Settings(actors=1, device="cpu", windows_per_call=4)
    score(find([str(tmp_path)]), tmp_path / "out", settings, stand_in)
    rows = dataset.dataset(tmp_path / "out/scores").to_table().sort_by("uri").to_pylist()
    assert [[w["start_s"] for w in row["windows"]] for row in rows] == [[0, 40, 120, 160]] * 2 + [[0, 5]]
    assert rows[0]["mos_se"] > 0 == rows[2]["mos_se"]


def test_a_model_that_does_not_load_ends_the_run_and_keeps_earlier_scores(local_ray, tmp_path, record, stand_in):
    record(tmp_path / "calls/a.wav")
    earlier = tmp_path / "scores/fingerprint=other/part-1-00000.parquet"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    with pytest.raises(UsageError, match="cannot load the model absent: no such model"):
        calls, settings = find([str(tmp_path / "calls")]), Settings(model="absent", device="cpu")
        score(calls, tmp_path, settings, stand_in, fingerprints=fingerprints)
    assert earlier.read_bytes() == b"earlier"


def test_a_gpu_that_is_not_there_is_refused(local_ray, tmp_path, record, stand_in):
    record(tmp_path / "a.wav")
    with pytest.raises(UsageError, match="no GPU"):
        score(find([str(tmp_path)]), tmp_path, Settings(device="cuda"), stand_in)


def test_nonsense_from_a_model_costs_that_recording_alone(tmp_path, record):
    (chunk,) = cut(str(record(tmp_path / "a.wav")))
    part = Part(chunk, 1, {"mean": [[1.0]], "std": [[1.0]]}, "stand-in", 0.0)
    (row,) = rows_of([part])
    assert (row["status"], row["error_code"], row["channel"]) == ("failed", "MODEL", 0) and row["uri"] == chunk.uri
