import numpy as np
import pytest
import soundfile as sf

from sqllm import recording
from sqllm.audio import RATE
from sqllm.recording import DIMENSIONS, ROW_FIELDS, assemble, cut, recording_id


def talk(seconds, rate=RATE, seed=0):
    """Bursts of noise with pauses: speech, as far as these rules can tell."""
    t = np.arange(int(seconds * rate)) / rate
    return np.random.default_rng(seed).normal(0, 0.05, len(t)) * (t % 1 < 0.6)


def write(path, samples, rate=RATE, **options):
    sf.write(path, samples, rate, **options)
    return str(path)


def score(chunk, value=3.0):
    mean = np.where(np.array(chunk.speech_s)[:, None] > 0, value, np.nan) * np.ones((len(chunk.windows), 5))
    return {"mean": mean, "std": mean * 0 + 0.5, "explanation": f"chunk {chunk.index}"}


def rows(uri, reference=None):
    channels = {}
    for chunk in cut(uri, reference):
        channels.setdefault(chunk.channel, []).append((chunk, score(chunk)))
    return [assemble(scored) for _, scored in sorted(channels.items())]


def test_id_is_stable():
    assert recording_id("a/b.wav") == recording_id("a/b.wav") != recording_id("a/c.wav")
    assert -(2**63) <= recording_id("") < 2**63
    assert recording_id("a.wav") == 8175102505230246214


def test_one_window_of_its_own_length(tmp_path):
    uri = write(tmp_path / "a.wav", talk(3.5))
    (chunk,) = cut(uri)
    assert [len(w) for w in chunk.windows] == [3.5 * RATE]
    assert chunk.windows[0].dtype == np.int16
    assert chunk.references is None
    row = assemble([(chunk, score(chunk))])
    assert tuple(row) == ROW_FIELDS
    assert (row["status"], row["error_code"], row["duration_s"]) == ("ok", None, 3.5)
    assert row["speech_s"] == pytest.approx(2.3, abs=0.1)
    assert row["mos"] == 3
    assert row["mos_std"] == 0.5
    assert row["worst_start_s"] == 0
    assert row["explanation"] == "chunk 0"
    assert row["windows"] == [{"start_s": 0.0, "end_s": 3.5, **dict.fromkeys(DIMENSIONS, 3.0)}]


def test_long_stereo_comes_in_chunks_per_channel(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "CHUNK_WINDOWS", 2)
    samples = np.stack([talk(47), talk(47, seed=1)], axis=1)
    samples[10 * RATE : 20 * RATE, 1] = 0
    chunks = list(cut(write(tmp_path / "a.wav", samples)))
    for channel in (0, 1):
        mine = [c for c in chunks if c.channel == channel]
        assert [c.index for c in mine] == [0, 1, 2]
        assert [s for c in mine for s in c.starts_s] == [0, 10, 20, 30, 37]
        assert [c.row is None for c in mine] == [True, True, False]
        row = assemble([(c, score(c)) for c in mine])
        assert row["channel"] == channel
        assert row["windows"][1]["mos"] == (3.0 if channel == 0 else None)
        assert row["speech_s"] == pytest.approx(0.6 * (47 if channel == 0 else 37), abs=1)


def test_score_is_weighted_by_speech_and_the_worst_explains(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "CHUNK_WINDOWS", 1)
    samples = talk(30)
    samples[15 * RATE : 20 * RATE] = 0
    chunks = list(cut(write(tmp_path / "a.wav", samples)))
    row = assemble([(c, score(c, value)) for c, value in zip(chunks, (4, 1, 3), strict=True)])
    weights = [s for c in chunks for s in c.speech_s]
    assert row["mos"] == pytest.approx(np.average([4, 1, 3], weights=weights))
    assert (row["worst_mos"], row["worst_start_s"], row["explanation"]) == (1, 10, "chunk 1")


def test_windows_spread_over_the_call(tmp_path):
    samples = talk(200)
    samples[100 * RATE : 150 * RATE] = 0
    uri = write(tmp_path / "a.wav", samples)
    (chunk,) = cut(uri, windows=4)
    assert (chunk.of, chunk.starts_s) == (15, [20, 60, 150, 190])
    values = np.array([4.0, 2.0, 3.0, 3.0])
    row = assemble([(chunk, score(chunk) | {"mean": np.tile(values[:, None], 5)})])
    assert row["mos"] == pytest.approx(3, abs=0.01) and 0 < row["mos_se"] < np.std(values, ddof=1) / 2
    assert [w["start_s"] for w in row["windows"]] == chunk.starts_s and row["worst_start_s"] == 60
    assert row["speech_s"] == pytest.approx(90, abs=2)  # of the whole call
    [every] = rows(uri)
    assert every["mos_se"] == 0 and len(every["windows"]) == 20 and every["evidence"] == row["evidence"]
    (short,) = cut(write(tmp_path / "b.wav", np.zeros(5 * RATE)), windows=4)
    assert assemble([(short, None)])["error_code"] == "SILENT"


def test_windows_that_were_not_drawn_do_not_count(tmp_path):
    (chunk,) = cut(write(tmp_path / "a.wav", talk(50)))
    mean = np.full((5, 5), np.nan)
    mean[[0, 3]] = [[2], [4]]
    row = assemble([(chunk, {"mean": mean, "std": mean * 0 + 0.5, "drawn": [3, 0]})])
    assert row["mos"] == pytest.approx(3, abs=0.01) and [w["start_s"] for w in row["windows"]] == [0, 30]
    assert row["mos_se"] == pytest.approx(np.sqrt(1 - 2 / 5), abs=0.02)


def bad(tmp_path, name):
    path = tmp_path / "a.wav"
    if name == "text":
        path.write_text("words " * 100)
    elif name == "empty":
        path.touch()
    elif name == "no samples":
        write(path, np.zeros(0))
    elif name == "nan":
        write(path, np.where(np.arange(3 * RATE) == 40000, np.nan, talk(3)), subtype="FLOAT")
    elif name == "silence":
        write(path, np.zeros(3 * RATE))
    elif name == "0.1 s":
        write(path, talk(0.1))
    elif name == "truncated":
        path = tmp_path / "a.flac"
        write(path, talk(30))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return str(path)


@pytest.mark.parametrize(
    ("name", "channel", "status", "code"),
    [
        ("missing", None, "failed", "NOT_FOUND"),
        ("text", None, "failed", "DECODE"),
        ("empty", None, "failed", "EMPTY"),
        ("no samples", 0, "failed", "EMPTY"),
        ("nan", 0, "failed", "NONFINITE"),
        ("truncated", 0, "failed", "DECODE"),
        ("silence", 0, "skipped", "SILENT"),
        ("0.1 s", 0, "skipped", "TOO_SHORT"),
    ],
)
def test_bad_files_are_rows(tmp_path, name, channel, status, code):
    (row,) = rows(bad(tmp_path, name))
    assert (row["channel"], row["status"], row["error_code"]) == (channel, status, code)
    assert row["error_detail"]
    assert all(row[name] is None for name in DIMENSIONS)


@pytest.mark.parametrize(
    ("rate", "channels", "codec"), [(8000, 1, "PCM_U8"), (96000, 1, "PCM_24"), (48000, 6, "PCM_16")]
)
def test_odd_but_good_files(tmp_path, rate, channels, codec):
    samples = np.stack([talk(2, rate, seed) for seed in range(channels)], axis=1)
    got = rows(write(tmp_path / "a.wav", samples, rate, subtype=codec))
    assert [row["channel"] for row in got] == list(range(channels))
    assert {row["status"] for row in got} == {"ok"}


def test_reference_is_cut_along(tmp_path):
    clean = talk(12)
    degraded = np.stack([np.pad(clean, (4000, 4000)), np.pad(clean, (8000, 0))], axis=1)
    uri, reference = write(tmp_path / "a.wav", degraded), write(tmp_path / "r.wav", clean)
    for chunk, delay_s in zip(cut(uri, reference), (0.25, 0.5), strict=True):
        assert chunk.row["alignment"]["used"]
        assert chunk.row["alignment"]["delay_s"] == pytest.approx(delay_s, abs=1e-3)
        for window, piece in zip(chunk.windows, chunk.references, strict=True):
            assert np.corrcoef(window, piece)[0, 1] > 0.95


def test_a_level_that_is_asked_for(tmp_path):
    clean = talk(12)
    quiet = write(tmp_path / "a.wav", np.stack([clean / 15, clean / 3], 1))
    reference = write(tmp_path / "r.wav", clean / 10)
    chunks = list(cut(quiet, reference, level_db=-26))
    heard = [window for chunk in chunks for window in (*chunk.windows, *chunk.references)]
    assert np.ptp([20 * np.log10(np.std(window)) for window in heard]) < 0.5 and len(heard) == 8
    levels = [chunk.row["evidence"]["level_db"] for chunk in chunks]  # the row tells those of the file
    assert levels == pytest.approx([-51.1, -37.2], abs=0.1)


def test_a_reference_that_does_not_fit_is_left_out_and_said(tmp_path):
    uri = write(tmp_path / "a.wav", talk(6))
    for reference in (write(tmp_path / "r.wav", talk(6, seed=9)), str(tmp_path / "none.wav")):
        (chunk,) = cut(uri, reference)
        row = assemble([(chunk, score(chunk))])
        assert chunk.references is None
        assert (row["status"], row["error_code"], row["mos"]) == ("ok", "REFERENCE", 3)
        assert "without the reference" in row["error_detail"]


def test_a_model_that_gives_nothing_is_an_error(tmp_path):
    (chunk,) = cut(write(tmp_path / "a.wav", talk(3)))
    for scored in (None, {"error": "out of memory"}, score(chunk, np.nan)):
        row = assemble([(chunk, scored)])
        assert (row["status"], row["error_code"], row["mos"]) == ("failed", "MODEL", None)


def test_whatever_the_decoder_throws_becomes_a_row(monkeypatch):
    def explode(uri):
        raise ZeroDivisionError("in the decoder")

    monkeypatch.setattr("sqllm.recording.open_sound", explode)
    (chunk,) = cut("a.wav")
    assert chunk.row["error_code"] == "DECODE" and "ZeroDivisionError" in chunk.row["error_detail"]
