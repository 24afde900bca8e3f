import json
import os
import signal
import threading
import time

import psutil
import pytest

from pipelines import train as pipeline
from sqllm import training
from sqllm.errors import UsageError
from sqllm.model import store
from sqllm.model.config import base
from sqllm.training.settings import Settings

pytest.importorskip("av")
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
    return {m.step: m.value for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)}


def test_ray_gives_the_losses_of_the_loop_alone(local_ray, corpus, base_model, tmp_path, capsys):
    settings = Settings(score_steps=26, word_steps=2, batch=4)
    training.train(corpus, base_model, tmp_path / "alone", settings)
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    seen = []
    out = train(corpus, base_model, tmp_path / "ray", settings, watch=lambda *what: seen.append(what))
    together = losses(out) | {100 + k: v for k, v in losses(out, "words.loss").items()}
    assert list(together.values()) == pytest.approx([line["loss"] for line in alone], rel=1e-3)
    assert {"scores", "words"} <= {stage for stage, *_ in seen}
    a, b = (store.load_file(folder / "trained.safetensors") for folder in (tmp_path / "alone", out))
    assert all((a[n].float() - b[n].float()).abs().max() < 1e-2 for n in a)
    [run] = runs(out)
    assert run.data.params["score_steps"] == "26" and "scores.r_mos" in run.data.metrics
    with pytest.raises(UsageError, match="--resume"):
        train(corpus, base_model, out, settings)


def test_a_worker_that_is_killed_is_replaced(local_ray, corpus, base_model, tmp_path):
    """Two workers, one of them killed once a checkpoint is there: the same run ends at the same step."""
    out, killed = tmp_path / "out", []

    def kill():
        while not killed:
            time.sleep(0.2)
            if list(out.glob("checkpoints/*/checkpoint*/scores.pt")):
                for process in psutil.process_iter(["cmdline"]):
                    if "RayTrainWorker" in " ".join(process.info["cmdline"] or ()):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        break

    threading.Thread(target=kill, daemon=True).start()
    train(corpus, base_model, out, Settings(score_steps=450, word_steps=2, batch=2), workers=2)
    assert killed
    assert max(losses(out)) == 450 and (out / "trained.safetensors").is_file()
    assert len(runs(out)) == 1


def test_a_run_that_was_stopped_is_gone_on_with(local_ray, corpus, base_model, tmp_path):
    out, settings = tmp_path / "out", Settings(score_steps=800, word_steps=2, batch=2)

    def stop(stage, done, of, figures):
        known = [file.read_text() for file in out.glob("checkpoints/*/checkpoint_manager_snapshot.json")]
        if any("checkpoint_dir_name" in text for text in known):  # what Ray Train knows, and not only has
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(corpus, base_model, out, settings, watch=stop)
    assert not (out / "trained.safetensors").exists()
    steps = []
    train(corpus, base_model, out, settings, resume=True, watch=lambda stage, done, *_: steps.append((stage, done)))
    assert min(done for stage, done in steps if stage == "scores") > 200
    assert max(losses(out)) == 800 and (out / "trained.safetensors").is_file()
    assert [run.info.status for run in runs(out)] == ["FINISHED"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"workers": 99}, "--workers 99"), ({"device": "cuda"}, "no GPU"), ({"resume": True}, "nothing to resume")],
)
def test_what_cannot_be_is_said(local_ray, corpus, base_model, tmp_path, options, reason):
    with pytest.raises(UsageError, match=reason):
        train(corpus, base_model, tmp_path / "out", Settings(1, 1), **options)
