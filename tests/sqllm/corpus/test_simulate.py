import io
import json

import numpy as np
import pytest
import soundfile as sf
from support import coders

from sqllm import DIMENSIONS
from sqllm.audio.degrade import KINDS, RATE, Impairment
from sqllm.corpus import simulate
from sqllm.errors import UsageError

coders.needed()


def is_val(split):
    return split == "val"


def names(prefix, split, count, suffix=""):
    """Names that the hash puts into this split."""
    return [n for i in range(500) if simulate.is_val(n := f"{prefix}{i}{suffix}") == is_val(split)][:count]


TRAIN, VAL = names("speaker", "train", 3), names("speaker", "val", 2)
VOICES = dict(zip([*TRAIN, *VAL], names("voice", "train", 3) + names("voice", "val", 2), strict=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """speech/SPEAKER/n.flac, 1 s each, and noise/: a tone per file, so that each can be told apart."""
    root, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    t = np.arange(RATE) / RATE
    for speaker in [*TRAIN, *VAL]:
        (root / "speech" / speaker).mkdir(parents=True)
        for i in range(2):
            x = 0.1 * rng.standard_normal(RATE) * np.clip(np.sin(2 * np.pi * (2 * t + rng.random())), 0, 1)
            sf.write(root / "speech" / speaker / f"{i}.flac", x, RATE)
    (root / "noise").mkdir()
    for split in ("train", "val"):
        hz = 3000 if is_val(split) else 1000
        for name in names("hum", split, 2, ".wav"):
            sf.write(root / "noise" / name, 0.1 * np.sin(2 * np.pi * hz * t), RATE)
    return root


@pytest.fixture(scope="module")
def pool(folders):
    return simulate.Pool(str(folders / "speech"), str(folders / "noise"), None)


def same(a, b):
    return all(np.array_equal(a[k], b[k]) if isinstance(a[k], np.ndarray) else a[k] == b[k] for k in a)


def test_a_clip_depends_on_seed_and_number_alone(pool):
    first = pool.clip(1, 7)
    for i in (3, 12, 5):
        pool.clip(2, i)
    assert same(pool.clip(1, 7), first)
    assert not same(pool.clip(2, 7), first) and not same(pool.clip(1, 8), first)


def test_a_clip_is_what_it_says(pool):
    kinds = set()
    for i in range(60):
        clip = pool.clip(1, i)
        kinds |= {step.kind for step in clip["chain"]}
        assert clip["split"] == ("val" if i % simulate.VAL_EVERY == 0 else "train")
        assert len(clip["audio"]) == len(clip["reference"]) <= 10 * RATE
        assert np.isfinite(clip["audio"]).all() and np.abs(clip["audio"]).max() <= 1
        assert all(1 <= clip[d] <= 5 for d in DIMENSIONS)
        if not clip["chain"]:
            np.testing.assert_allclose(clip["audio"], clip["reference"], atol=1e-6)
    assert len(kinds) > 10


def test_val_speakers_and_noises_are_never_in_train(pool):
    heard = {"train": set(), "val": set()}
    for i in range(72):
        clip = pool.clip(1, i)
        heard[clip["split"]].add(clip["speaker"])
    assert heard == {"train": set(TRAIN), "val": set(VAL)}
    for split, hz in (("train", 1000), ("val", 3000)):
        assert len(pool.noises[split]) == 2
        for x in pool.noises[split]:
            assert np.abs(np.fft.rfft(x)).argmax() == hz


@pytest.mark.parametrize("split", ["train", "val"])
def test_few_speakers_are_divided_too(split, tmp_path):
    """Where the hash would put all into one split."""
    few, rng = names("few", split, 3), np.random.default_rng(0)
    for name in few[:1]:
        sf.write(tmp_path / f"{name}-1.wav", 0.1 * rng.standard_normal(RATE), RATE)
    with pytest.raises(UsageError, match="only one speaker"):
        simulate.Pool(str(tmp_path), None, None)
    for name in few[1:]:
        sf.write(tmp_path / f"{name}-1.wav", 0.1 * rng.standard_normal(RATE), RATE)
    pool = simulate.Pool(str(tmp_path), None, None)
    found = pool.names
    if split == "train":
        with pytest.raises(UsageError, match="may have heard"):
            pool.unheard()
    else:
        assert pool.unheard() == found["val"]
    other = {"train": "val", "val": "train"}[split]
    assert len(found[split]) == 2 and len(found[other]) == 1


def test_names_go_where_their_hash_puts_them():
    assert simulate.divided([*TRAIN, *VAL]) == {"train": set(TRAIN), "val": set(VAL)}
    assert simulate.divided([]) == {"train": set(), "val": set()}
    assert simulate.divided(["one"]) == {"train": {"one"}, "val": set()}


def test_each_kind_can_be_drawn():
    assert set(simulate.SHARES) == set(KINDS) == set(simulate.STAGES)
    rng = np.random.default_rng(0)
    for _ in range(200):
        chain = simulate.draw_chain(rng)
        stages = [simulate.STAGES.index(step.kind) for step in chain]
        assert len(chain) <= 3 and stages == sorted(set(stages))
        json.dumps([step.params for step in chain])  # plain numbers and words


def test_the_share_of_speech_that_gaps_took():
    speech = np.concatenate([np.full(2 * RATE, 0.1), np.zeros(2 * RATE)]).astype(np.float32)
    gaps = [Impairment("loss", {}, [(0.0, 0.5), (3.0, 3.5)])]  # the second falls into a pause
    mute, muted = Impairment("chop", {}, []), Impairment("chop", {}, [(0.0, 1.0)])
    assert simulate.gap_shares([*gaps, mute], speech) == {"loss": pytest.approx(0.25, abs=0.02), "chop": 0}
    assert simulate.gap_shares([*gaps, muted], speech)["chop"] == pytest.approx(0.5, abs=0.02)
    assert simulate.gap_shares([Impairment("mnru", {})], speech) == {}


def test_speakers_from_a_table_and_from_folders(pool, folders):
    assert pool.speaker(f"{TRAIN[0]}/0.flac") == TRAIN[0] and pool.speaker("anna-03.wav") == "anna"
    assert pool.speaker("84/121123/84-121123-0000.flac") == "84"  # LibriSpeech: speaker, chapter, file
    table = {f"{TRAIN[0]}/0.flac": "somebody"}
    assert simulate.Pool(str(folders / "speech"), None, None, table).speaker(f"{TRAIN[0]}/0.flac") == "somebody"


def test_files_that_cannot_be_used_are_left_out_and_said(tmp_path, folders):
    sf.write(tmp_path / "good.wav", np.full(RATE, 0.1), RATE)
    sf.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    sf.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    (tmp_path / "broken.flac").write_bytes(b"?")
    found, left_out = simulate.load(str(tmp_path))
    assert list(found) == ["good.wav"] and len(left_out) == 3 and all(str(tmp_path) in line for line in left_out)
    (tmp_path / "good.wav").unlink()
    with pytest.raises(UsageError, match=r"broken\.flac"):
        simulate.load(str(tmp_path))
    (empty := tmp_path / "empty").mkdir()
    for noise, reason in ((empty, "no audio in"), (empty / "absent", "no such folder")):
        with pytest.raises(UsageError, match=reason):
            simulate.Pool(str(folders / "speech"), str(noise), None)
    with pytest.raises(UsageError, match="names no file of"):
        simulate.Pool(str(folders / "speech"), None, None, {"elsewhere.wav": "anna"})
    assert len(simulate.Pool(str(folders / "speech"), None, None, {f"{TRAIN[0]}/0.flac": "anna"}).problems) > 1


def test_shards_hold_every_clip_once():
    assert simulate.shards(120) == [
        ("clips-00000.parquet", range(50)), ("clips-00001.parquet", range(50, 100)),
        ("clips-00002.parquet", range(100, 120)),
    ]  # fmt: skip


def test_a_shard_holds_audio_and_truth(folders):
    voices = {f"{s}/{i}.flac": voice for s, voice in VOICES.items() for i in range(2)}
    pool = simulate.Pool(str(folders / "speech"), str(folders / "noise"), None, voices)
    rows = simulate.table(pool, 1, range(10, 30)).to_pylist()
    assert [row["index"] for row in rows] == list(range(10, 30))
    for row in rows:
        audio, rate = sf.read(io.BytesIO(row["audio"]))
        reference, _ = sf.read(io.BytesIO(row["reference"]))
        assert rate == RATE and len(audio) == len(reference)
        assert row["speaker"] == VOICES[row["source"].split("/")[0]]
        assert simulate.is_val(row["speaker"]) == is_val(row["split"])
        assert all(step.keys() == {"kind", "params", "spans"} for step in json.loads(row["chain"]))
        assert all(1 <= row[d] <= 5 for d in DIMENSIONS)
    again = simulate.table(pool, 1, [12]).to_pylist()[0]
    assert again == rows[2]


def test_teachers_are_asked_about_every_clip(pool):
    class Teacher:
        def rate(self, degraded, reference):
            return {"distillmos": float(len(degraded)), "pesq": None}

    [row] = simulate.table(pool, 1, [0], Teacher()).to_pylist()
    assert row["distillmos"] == len(sf.read(io.BytesIO(row["audio"]))[0])
