import pytest

from pipelines.tracking import tracked


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def runs(folder):
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    return mlflow.search_runs(experiment_names=["sqllm"], output_format="list")


def test_a_run_lies_beside_the_output(here):
    (here / "report.html").write_text("x")
    with tracked(here, "a run") as run:
        run.settings({"model": "embedded", "profile": None})
        run.figures({"mos": 3.5, "nothing": float("nan")}, step=2)
        run.file(here / "report.html")
    [found] = runs(here)
    assert found.data.params == {"model": "embedded", "profile": "None"} and found.data.metrics == {"mos": 3.5}
    assert found.info.run_name == "a run" and found.info.status == "FINISHED"
    assert (here / "mlflow" / found.info.run_id / "artifacts/report.html").is_file()


def test_a_failed_run_says_so_and_can_be_gone_on_with(here):
    with pytest.raises(ValueError), tracked(here, "a run") as run:
        run.figures({"loss": 2.0}, step=1)
        raise ValueError
    assert [r.info.status for r in runs(here)] == ["FAILED"]
    with tracked(here, "a run", run.id) as again:
        again.figures({"loss": 1.0}, step=2)
    [found] = runs(here)
    assert found.info.run_id == run.id and found.info.status == "FINISHED" and found.data.metrics["loss"] == 1.0


def test_a_run_that_is_interrupted_was_killed(here):
    with pytest.raises(KeyboardInterrupt), tracked(here, "a run"):
        raise KeyboardInterrupt
    assert [r.info.status for r in runs(here)] == ["KILLED"]


def test_a_dead_server_warns_once_and_changes_nothing(here, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracked(here, "a run") as run:
        run.settings({"a": 1})
        run.figures({"b": 2})
    error = capsys.readouterr().err
    assert error.count("MLflow is left out") == 1 and "Traceback" not in error
