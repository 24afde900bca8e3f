import socket
import time

import numpy as np
import pytest

from pipelines import tracking
from pipelines.remembered import Remembered
from pipelines.report import Report
from pipelines.report.gather import MEASURES, Gathered
from pipelines.score import Settings
from pipelines.summary import Totals
from pipelines.tracking import later


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def totals():
    totals = Totals(recordings=3)
    scores = dict.fromkeys(("mos", "noi", "col", "dis", "loud"), 3.0)
    totals.add([{"status": "ok", "model": "abc", "duration_s": 60.0, **scores}], ready_at=time.time() - 10)
    totals.add([{"status": "failed", "error_code": "DECODE", "model": "abc"}], ready_at=time.time())
    return totals


def test_what_is_remembered(here, totals):
    found = Gathered(rows=2)
    found.overall.add(np.arange(2), np.array([2.0, 3.0])[:, None] * np.ones(len(MEASURES)), None)
    written = Report("report.html", "<html>", found)
    with later(str(here), "score night") as run:
        remembered = Remembered(run, Settings(profile="expert"), ["s3://calls/night"])
        for stage in ("starting Ray", "loading the model"):
            remembered.update(stage, Totals(3))
        remembered.update("scoring", totals)
        remembered.update("scoring", totals)
        remembered.end(totals, written)
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{here / 'mlflow.db'}")
    [found] = mlflow.search_runs(experiment_names=["sqllm"], output_format="list")
    assert found.info.run_name == "score night" and found.info.status == "FINISHED"
    assert found.data.params["fingerprint"] == "abc" and found.data.params["profile"] == "expert"
    assert found.data.params["source"] == "s3://calls/night"
    metrics = found.data.metrics
    assert (metrics["done"], metrics["rows_ok"], metrics["rows_DECODE"]) == (2, 1, 1)
    assert metrics["mos"] == metrics["gaps"] == 2.5 and metrics["times_real_time"] > 0
    artifacts = here / "mlflow" / found.info.run_id / "artifacts"
    assert (artifacts / "report.html").read_text() == written.text
    assert (artifacts / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_had_nothing_to_do_leaves_nothing(here, totals):
    with later(str(here), "again") as run:
        Remembered(run, Settings(), ["."]).end(totals, None)
    assert not (here / "mlflow.db").exists()


def test_a_dead_server_is_one_line(here, totals, monkeypatch, capsys):
    with socket.socket() as taken:  # nothing listens here
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with later(str(here), "a run") as run:
            remembered = Remembered(run, Settings(), ["."])
            remembered.update("scoring", totals)
            remembered.end(totals, None)
    said = capsys.readouterr().err
    assert said.startswith("sqllm: MLflow is left out") and said.count("\n") == 1


def test_a_server_that_never_answers_is_not_waited_for(here, totals, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "WAIT_S", 0.5)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with later(str(here), "a run") as run:
            Remembered(run, Settings(), ["."]).update("scoring", totals)
    assert "MLflow is left out: it took more than" in capsys.readouterr().err


def test_remote_output_without_a_server_is_said(monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with later("s3://scores/night", "a run") as run:
        assert run is None
    assert "set MLFLOW_TRACKING_URI" in capsys.readouterr().err
