import csv
import json

import numpy as np
import pytest

from pipelines import evaluate
from pipelines.cli import main
from pipelines.score import Settings
from sqllm.evaluation import tables

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def rated(tmp_path, record):
    """12 recordings with votes, two of them broken, half with a reference."""
    with open(tmp_path / "ratings.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["deg", "ref", "score", "sd", "votes", "condition", "set"])
        for i in range(12):
            record(tmp_path / f"{i}.wav", seconds=1.0 + 5 * (i % 3))
            writer.writerow([f"{i}.wav", f"{i}.wav" if i % 2 else "", 1 + (i % 3), 0.7, 8, f"c{i // 3}", "a"])
        writer.writerow(["gone.wav", "", 2, 0.7, 8, "c0", "a"])
        writer.writerow(["0.wav", "", 80, 9, 8, "c0", "b"])
    (tmp_path / "1.wav").write_text("no audio")
    return tmp_path


COLUMNS = {"uri": "deg", "reference_uri": "ref", "mos": "score", "mos_std": "sd"}


def test_single_and_double_ended_on_the_same_clips(local_ray, rated, stand_in, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    table = evaluate.corpora([str(rated / "ratings.csv")], COLUMNS, {"set": "a"})
    settings = Settings(actors=1, device="cpu")
    judgements, totals = evaluate.judge(table, settings, lambda *_: None, stand_in)
    assert totals.recordings == 13 + 6 and totals.model == "stand-in"
    result = evaluate.write(rated / "out", "Evaluation of a stand-in", {"model": "stand-in"}, judgements)
    mos = {(f["ended"], f["level"]): f for f in result["figures"] if f["dim"] == "mos"}
    assert mos["single", "clip"]["n"] == 11 and mos["single", "clip"]["missing"] == 2
    assert mos["single", "clip"]["r"] > 0.8 and "rmse_star" in mos["single", "clip"]
    assert mos["double", "clip"]["n"] + mos["double", "clip"]["missing"] == 6
    assert {f["dim"] for f in result["figures"]} == {"mos", "mos_std"}
    assert json.loads((rated / "out/evaluation.json").read_text())["facts"] == {"model": "stand-in"}
    assert "<svg" in (rated / "out/evaluation.html").read_text()

    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{rated / 'out/mlflow.db'}")
    [run] = mlflow.search_runs(experiment_names=["sqllm"], output_format="list")
    assert run.data.params == {"model": "stand-in"} and run.info.status == "FINISHED"
    assert run.data.metrics["a.single.mos.clip.r"] == pytest.approx(mos["single", "clip"]["r"])
    assert {f.path for f in mlflow.MlflowClient().list_artifacts(run.info.run_id)} == {
        "evaluation.json", "evaluation.html", "judgements.csv",
    }  # fmt: skip
    assert {"DECODE (single)": 1, "NOT_FOUND (single)": 1}.items() <= result["not_judged"].items()
    again = tables.figures(tables.predictions(rated / "out/judgements.csv"))
    again = {(f["ended"], f["level"]): f for f in again if f["dim"] == "mos"}
    assert all(again[key][name] == pytest.approx(mos[key][name]) for key in mos for name in ("n", "missing", "mae"))


def test_a_vote_belongs_to_one_channel(local_ray, tmp_path, record, stand_in, capsys):
    record(tmp_path / "two.wav", channels=2)
    record(tmp_path / "one.wav")
    (tmp_path / "r.csv").write_text("uri,mos\ntwo.wav,3\none.wav,3\n")
    table = evaluate.corpora([str(tmp_path / "r.csv")], {}, {})
    judgements, _ = evaluate.judge(table, Settings(actors=1, device="cpu"), lambda *_: None, stand_in)
    assert [j["predicted"] is None for j in judgements if j["dim"] == "mos"] == [True, False]
    assert "two.wav (a vote belongs to one channel), 1 in all" in capsys.readouterr().err


def test_corpora_that_name_no_set_are_not_mixed(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("uri,mos,condition\nx.wav,3,1\n")
    paths = [str(tmp_path / f"{name}.csv") for name in "ab"]
    assert evaluate.corpora(paths, {}, {})["set"].to_pylist() == paths
    assert evaluate.corpora(paths[:1], {}, {})["set"].to_pylist() == [None]


def test_predictions_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    true = rng.uniform(1, 5, 40)
    lines = [f"mos_numeric,mos,{t},{t + e},success" for t, e in zip(true, 0.3 * rng.standard_normal(40), strict=True)]
    (tmp_path / "p.csv").write_text(
        "\n".join(
            ["task,dim,y_true,y_pred,status", *lines, "mos_numeric,mos,3,,no_number", "mos_numeric,mos,,3,success"]
        )
    )
    with pytest.raises(SystemExit) as done:
        main(["evaluate", "--predictions", "p.csv", "--out", "out"])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert "mos_numeric" in printed and "41 success, 1 no_number" in printed
    assert "left out: 1 without y_true" in printed
    assert (tmp_path / "out/evaluation.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--predictions"),
        (["x.csv", "--predictions", "y.csv"], "--predictions"),
        (["x.csv"], "x.csv"),
        (["x.csv", "--only", "set"], "NAME=VALUE"),
    ],
)
def test_a_wrong_argument_is_said_in_a_line(arguments, reason, capsys):
    with pytest.raises(SystemExit) as done:
        main(["evaluate", *arguments])
    assert done.value.code == 2
    error = capsys.readouterr().err
    assert reason in error and len(error.splitlines()) == 1
