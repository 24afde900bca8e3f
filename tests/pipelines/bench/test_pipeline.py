from collections import Counter

import pytest

from pipelines.bench.pipeline import bare, job, make, show
from pipelines.cluster import Pool
from pipelines.score import Settings
from sqllm.model import store

pytestmark = pytest.mark.timeout(180)
POOL = Pool(actors=1, threads=1, device="cpu", cpus=0.5, gpus=0, chunks=4)


def test_the_job_is_taken_apart(local_ray, tmp_path, stand_in):
    make(tmp_path / "calls", 8, 12.0)
    settings = Settings("stand-in", device="cpu")
    counts, spent = job(str(tmp_path / "calls"), str(tmp_path / "out"), settings, 16, stand_in)
    assert counts["windows"] == 16
    assert all(counts[name] > 0 for name in ("wall", "model", "cut", "score", "write", "end"))
    assert spent["model actors"] >= 0 and "Ray's own processes" in spent


def test_the_bare_predictor_scores_the_same_recordings(config, tmp_path):
    model = tmp_path / "model"
    store.save(store.create(config(score_layers=1)), model)
    files = make(tmp_path / "calls", 5, 1.0)
    counts = bare(files, str(model), POOL)
    assert counts["windows"] == 5 and counts["wall"] >= counts["cut"] + counts["score"] > 0


def test_side_by_side(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    alone = Counter(windows=100, wall=50.0, cut=5.0, score=90.0)
    counts = Counter(windows=100, wall=55.0, cut=5.0, score=92.0, write=0.5, ray=4.0, model=6.0, end=0.2)
    show(100, 10.0, alone, counts, Counter({"model actors": 60.0, "driver": 2.0}), POOL)
    text = capsys.readouterr().out
    assert "Ray costs 9.1%" in text and "Ray 4.0 s, model 6.0 s" in text and "920.0" in text and "driver" in text
