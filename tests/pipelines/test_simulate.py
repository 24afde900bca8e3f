import pytest
from pyarrow import parquet
from support import coders

from pipelines.cli import main
from pipelines.simulate import simulate as run
from sqllm.corpus import simulate
from sqllm.errors import UsageError

coders.needed()
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def speech(tmp_path, record):
    names = [f"talker{i}" for i in range(40)]
    for name in [n for n in names if simulate.is_val(n)][:2] + [n for n in names if not simulate.is_val(n)][:2]:
        record(tmp_path / "speech" / name / "a.wav", seconds=4.0)
    return tmp_path / "speech"


def test_shards_are_the_same_whoever_draws_them(local_ray, speech, tmp_path, monkeypatch):
    monkeypatch.setattr(simulate, "SHARD", 3)
    out, seen = tmp_path / "corpus", []
    assert run(str(speech), str(out), 8, seed=5, teachers=False) == 3
    for name, content in (("0", None), ("1", b"made before"), ("2", None)):
        shard = out / f"clips-0000{name}.parquet"
        shard.write_bytes(content) if content else shard.unlink()
    made = run(str(speech), str(out), 8, seed=5, teachers=False, watch=lambda done, of: seen.append((done, of)))
    assert made == 2 and seen == [(1, 3), (2, 3), (3, 3)]
    assert (out / "clips-00001.parquet").read_bytes() == b"made before"
    assert sorted(p.name for p in out.iterdir()) == [*(f"clips-0000{i}.parquet" for i in range(3)), "simulate.json"]
    pool = simulate.Pool(str(speech), None, None)
    assert parquet.read_table(out / "clips-00002.parquet").equals(simulate.table(pool, 5, range(6, 8)))
    assert run(str(speech), str(out), 8, seed=5, teachers=False) == 0
    (out / "clips-00002.key.npy").write_bytes(b"features of two clips")
    assert run(str(speech), str(out), 12, seed=5, teachers=False) == 2  # the third is filled up
    assert parquet.read_table(out / "clips-00002.parquet").equals(simulate.table(pool, 5, range(6, 9)))
    assert not (out / "clips-00002.key.npy").exists()
    with pytest.raises(UsageError, match="drawn with seed 5: give another --out"):
        run(str(speech), str(out), 12, seed=6, teachers=False)
    with pytest.raises(UsageError, match="drawn with 12 clips: give another --out"):
        run(str(speech), str(out), 8, seed=5, teachers=False)
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="drawn with simulator"):
        patch.setattr("pipelines.simulate.VERSION", simulate.VERSION + 1)
        run(str(speech), str(out), 12, seed=5, teachers=False)
    (out / "simulate.json").unlink()
    with pytest.raises(UsageError, match="nothing says what they were drawn from"):
        run(str(speech), str(out), 12, seed=5, teachers=False)


def test_a_run_that_drew_nothing_leaves_its_folder_free(local_ray, speech, tmp_path, monkeypatch, capsys):
    out, bad = str(tmp_path / "corpus"), speech / "talker0" / "bad.wav"
    bad.parent.mkdir(exist_ok=True)
    bad.write_bytes(b"no audio")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipelines.simulate.start_ray", stop)
        run(str(speech), out, 4, seed=1, teachers=False)
    assert run(str(speech), out, 4, seed=2, teachers=False) == 1
    assert f"left out, or not known: {bad}: " in capsys.readouterr().err


def stop(verbose):
    raise KeyboardInterrupt


def test_what_is_missing_is_said(tmp_path, speech, capsys):
    with pytest.raises(UsageError, match="no such folder"):
        run(str(tmp_path / "absent"), str(tmp_path / "out"), 8, teachers=False)
    with pytest.raises(SystemExit) as done:
        main(["corpus", "simulate", "--speech", str(tmp_path / "absent"), "--out", "nowhere://x"])
    assert done.value.code == 2
    error = capsys.readouterr().err
    assert "--out nowhere://x" in error and len(error.splitlines()) == 1
