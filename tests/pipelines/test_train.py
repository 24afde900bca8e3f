import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest
from support import coders

from pipelines import curves
from pipelines import train as pipeline
from pipelines.cli import main
from sqllm import DIMENSIONS, Predictor, training
from sqllm.errors import UsageError
from sqllm.model import store
from sqllm.model.config import base
from sqllm.training.settings import Settings

coders.needed()
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def train(corpus, base_model, out, settings, **options):
    return pipeline.train([str(corpus)], str(base_model), *base(base_model), out, settings, **options)


def runs(folder):
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    return mlflow.search_runs(experiment_names=["sqllm"], output_format="list")


def losses(folder, name="scores.loss"):
    import mlflow

    [run] = runs(folder)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
    found = {m.step: m.value for m in history}
    assert len(history) == len(found)  # no step twice, however often it was learned
    return found


def test_ray_gives_the_losses_of_the_loop_alone_in_one_go_or_two(local_ray, corpus, base_model, tmp_path, capsys):
    """Stopped once a checkpoint is there, and gone on with in the same MLflow run."""
    settings, out = Settings(score_steps=100, word_steps=2, batch=2, report_every=4), tmp_path / "ray"
    out.mkdir()
    curves.add(out, "scores", {"step": 4, "loss": 99.0})  # of a run whose run.json is gone
    training.train(corpus, base_model, tmp_path / "alone", settings)
    *lines, last = map(json.loads, capsys.readouterr().out.splitlines())
    alone = {line["step"]: line["loss"] for line in lines}

    def stop(stage, done, of, figures):
        known = [file.read_text() for file in out.glob("checkpoints/*/checkpoint_manager_snapshot.json")]
        if any("checkpoint_dir_name" in text for text in known):  # what Ray Train knows, and not only has
            with pytest.raises(UsageError, match="another run is writing to"):
                train(corpus, base_model, out, settings, resume=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(corpus, base_model, out, settings, watch=stop)
    assert not (out / "trained.safetensors").exists()
    with pytest.raises(UsageError, match="--resume"):
        train(corpus, base_model, out, settings)
    seen = []
    train(corpus, base_model, out, settings, resume=True, watch=lambda *what: seen.append(what))
    assert {"scores", "words"} <= {stage for stage, *_ in seen}
    assert min(done for stage, done, *_ in seen if stage == "scores") > 32
    together = losses(out)
    assert {4, 32, 100} <= together.keys() and losses(out, "words.loss") == pytest.approx({2: last["loss"]}, rel=1e-3)
    assert together == pytest.approx({step: alone[step] for step in together}, rel=1e-3)
    a, b = (store.load_file(folder / "trained.safetensors") for folder in (tmp_path / "alone", out))
    assert all((a[n].float() - b[n].float()).abs().max() < 1e-2 for n in a)
    [run] = runs(out)
    assert run.info.status == "FINISHED"
    assert run.data.params["score_steps"] == "100" and "scores.r_mos" in run.data.metrics
    [logged] = out.glob("mlflow/models/*/artifacts/artifacts/*")
    assert {path.name for path in logged.iterdir()} == {path.name for path in store.parts(out)}
    assert not list(logged.rglob("checkpoint*"))
    with pytest.raises(UsageError, match="came to its end"):
        train(corpus, base_model, out, settings, resume=True)


def test_a_worker_that_is_killed_is_replaced(local_ray, corpus, base_model, tmp_path):
    """Two workers, one of them killed once a checkpoint is there: the same run ends at the same step. They train the
    encoder too."""
    replace(store.ModelConfig.load(base_model), encoder_training="full").save(tmp_path)
    out, killed = tmp_path / "out", []

    def kill():
        while not killed:
            time.sleep(0.2)
            if list(out.glob("checkpoints/*/checkpoint*/scores.pt")):
                for process in psutil.Process().children(recursive=True):  # no other run's on this machine
                    with suppress(psutil.Error):
                        if "RayTrainWorker" in " ".join(process.cmdline()):
                            process.kill()
                            killed.append(process.pid)
                            break

    threading.Thread(target=kill, daemon=True).start()
    train(corpus, tmp_path, out, Settings(score_steps=60, word_steps=2, batch=2, report_every=4), workers=2)
    assert killed
    assert max(losses(out)) == 60 and store.holds_encoder(out / store.TRAINED)
    assert len(runs(out)) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"workers": 99}, "--workers 99"), ({"device": "cuda"}, "no GPU"), ({"resume": True}, "nothing to resume")],
)
def test_what_cannot_be_is_said(local_ray, corpus, base_model, tmp_path, options, reason):
    with pytest.raises(UsageError, match=reason):
        train(corpus, base_model, tmp_path / "out", Settings(1, 1), **options)


def test_the_papers_preset_from_the_command_line(local_ray, nisqa, bases, tmp_path, capfd):
    """The documented command on miniature bases: a corpus in, a model out, and in MLflow the same model again."""
    out = tmp_path / "m"
    command = ["train", "--preset", "paper", "--corpus", str(nisqa), "--out", str(out), "--steps", "3", "--batch", "2"]
    command += ["--encoder", str(bases / "ast"), "--language-model", str(bases / "llama3")]
    with pytest.raises(SystemExit) as done:
        main(command)
    told = capfd.readouterr()
    assert done.value.code == 0 and told.out == f"trained: {out}\n"
    assert re.fullmatch(r"corpus: 1 of 1\njoint: 3 of 3 loss [0-9.]+\n", told.err)  # no terminal: lines
    config = store.ModelConfig.load(out)
    assert (config.encoder_training, config.quantization, config.checklist) == ("query", "nf4", False)
    [run] = runs(out)
    assert (
        run.data.params["train_clips"] == "13"
        and run.data.params["left_out"] == "0"
        and run.data.params["lr"] == "4e-05"
    )
    assert {"joint.r_mos", "joint.mae_noi", "joint.clips_per_s", "joint.tokens_per_s"} <= set(run.data.metrics)
    last = next(out.glob("checkpoints/*/checkpoint*/trained"))
    assert {file.name for file in last.iterdir()} == {"config.json", "trained.safetensors"}

    import mlflow

    kept = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert "training.png" in kept
    [model] = mlflow.search_logged_models(output_format="list")
    file = nisqa / "NISQA_TEST_P501/deg/0.wav"
    [row] = Predictor.load(str(out)).score(file)
    [again] = mlflow.pyfunc.load_model(model.model_uri).predict([str(file)]).to_dict("records")
    assert {d: again[d] for d in DIMENSIONS} == {d: row[d] for d in DIMENSIONS} and again["model"] == row["model"]
    with pytest.raises(SystemExit) as done:
        main([*command, "--resume", "--batch", "4", "--only", "lang=en"])
    error = capfd.readouterr().err
    assert done.value.code == 2 and "batch is 4 and was 2" in error and "only is" in error and "steps" not in error


def test_a_base_that_cannot_be_fetched_is_said_in_a_line(nisqa, bases, tmp_path, capfd):
    with pytest.raises(SystemExit) as done:
        main(
            ["train", str(nisqa), "--preset", "paper", "--encoder", str(tmp_path / "ast"), "--out", str(tmp_path / "m")]
        )
    error = capfd.readouterr().err
    assert done.value.code == 2 and error.startswith("sqllm: the encoder") and error.count("\n") == 1
