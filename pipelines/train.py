"""`sqllm train`: the loop of `sqllm.training` in the workers of Ray Train, watched in MLflow.

Checkpoints, and what is made of rated recordings, go to `storage` (a folder that all machines see, or s3://...). A
worker that dies is replaced, and all go on from the last checkpoint, in the same MLflow run. `out/run.json` remembers
the run for `--resume`, `out/training.jsonl` its figures.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import ray

from pipelines import curves, ingest
from pipelines.cluster import start_ray
from pipelines.fit import TRAINED, Board, fit
from pipelines.lease import only_writer
from pipelines.tracking import Run, tracked
from sqllm import training
from sqllm.corpus.shards import Shards
from sqllm.errors import UsageError
from sqllm.model import store
from sqllm.model.config import ModelConfig
from sqllm.training import data, features
from sqllm.training.corpora import left_out
from sqllm.training.settings import Settings

NOTE = "run.json"


def train(
    corpora: Sequence[str], base: str, config: ModelConfig, bases: Path | None, out: Path, settings: Settings,
    workers: int = 1, device: str = "auto", storage: str | None = None, resume: bool = False, verbose: bool = False,
    columns: Mapping[str, str] | None = None, only: Mapping[str, str] | None = None,
    watch: Callable[[str, int, int, str], None] = lambda stage, done, of, figures: None,
) -> Path:  # fmt: skip
    """Train with so many workers into the model directory `out`, and return it.

    `config`, `bases`: what `model.config.base` gives for `base`, the name under which it is remembered. `watch(stage,
    done, of, figures)` is told how it goes. UsageError where corpus, base or cluster do not do, where `out` holds a run
    already and `resume` is not asked for, or was made with other options.
    """
    stages, bases = training.steps(config, settings), bases and bases.absolute()
    names = [c if "://" in c else str(Path(c).absolute()) for c in map(str, corpora)]
    options = {**settings.of_run(config.encoder_training), "corpus": names, "base": base, "config": asdict(config)}
    options |= {"column": dict(columns or {}), "only": dict(only or {}), "storage": storage}
    options["parts"] = settings.parts * workers  # of a step, in all workers
    known = _run(out, options, resume)
    store.check_bases(config, bases)
    training.begun(config, bases, settings)
    start_ray(verbose)
    device = "cuda" if _on_gpu(device, workers) else "cpu"
    with only_writer(str(out)):
        places = ingest.prepare(names, known["storage"], columns or {}, only or {}, config, bases, watch, device)
        problems = left_out(places)
        clips = data.read([Shards.open(p) for p in places], features.features_key(config, bases))
        with tracked(out, f"train {out.name}", known["run_id"]) as run:
            if not resume:
                (out / curves.FILE).unlink(missing_ok=True)  # of a run that is forgotten
                counts = {f"{split}_clips": len(c) for split, c in clips.items()} | {"left_out": len(problems)}
                run.settings({**options, "workers": workers, **counts})
                if problems:
                    run.text("\n".join(problems) + "\n", "left_out.txt")
                _note(out, known | {"run_id": run.id})
            job = {"places": places, "config": asdict(config), "bases": bases and str(bases)}
            job |= {"settings": asdict(settings), "device": device}
            checkpoint = _watched(job, workers, known, verbose, run, out, stages, watch)
            with checkpoint.as_directory() as folder:
                shutil.copytree(Path(folder) / TRAINED, out, dirs_exist_ok=True)
            store.complete(out, bases)
            run.figure(curves.figure(curves.read(out)), "training.png")
            run.model(store.parts(out))
            _note(out, known | {"run_id": run.id, "ended": True})
    return out


def _note(out: Path, known: dict) -> None:
    (out / NOTE).write_text(json.dumps(known, indent=2) + "\n")


def _run(out: Path, options: dict, resume: bool) -> dict:
    """What `out/run.json` knows of the run that is gone on with, or of a new one."""
    note = out / NOTE
    if note.is_file() != resume:
        raise UsageError(
            f"nothing to resume in {out}: it has no {NOTE}"
            if resume
            else f"{out} holds a run already: --resume goes on with it, or give another --out"
        )
    options = json.loads(json.dumps(options))
    if not resume:
        storage = options["storage"] or str(out / "checkpoints")
        storage = storage if "://" in storage else str(Path(storage).absolute())
        name = f"train-{time.strftime('%Y%m%d-%H%M%S')}"
        return {"name": name, "storage": storage, "run_id": None, "options": options}
    known = json.loads(note.read_text())
    was = known["options"]
    if others := [name for name in options if options[name] != was.get(name)]:
        differ = ", ".join(f"{name} is {_brief(options[name])} and was {_brief(was.get(name))}" for name in others)
        raise UsageError(f"the run in {out} was started with other options: {differ}")
    if known.get("ended"):
        raise UsageError(f"the run in {out} came to its end: the model is there, and --base {out} goes on from it")
    return known


def _brief(value) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else f"{value}"


def _on_gpu(device: str, workers: int) -> bool:
    have = ray.cluster_resources()
    if device == "cuda" and not have.get("GPU"):
        raise UsageError("--device cuda, but Ray finds no GPU here: use --device cpu or auto")
    gpu = device == "cuda" or (device == "auto" and have.get("GPU", 0) >= workers)
    kind = "GPU" if gpu else "CPU"
    if workers > have.get(kind, 0):
        raise UsageError(f"--workers {workers}, but Ray finds {have.get(kind, 0):g} {kind}s")
    return gpu


def _watched(job: dict, workers: int, known: dict, verbose: bool, run: Run, out: Path, stages: dict, watch: Callable):
    """The last checkpoint of a training whose figures go to MLflow, to `out` and to the user."""
    noted = {(line["stage"], line["step"]) for line in curves.read(out)}
    job["board"] = board = Board.options(num_cpus=0).remote()
    fitted = ray.remote(num_cpus=0)(fit).remote(job, workers, known["name"], known["storage"], verbose)

    def told() -> list[tuple[str, dict]]:
        """What came since, noted before anything can interrupt. What a worker learns again, from the last checkpoint to
        where it was cut off, it learns as before: nothing is told twice."""
        lines = [(stage, line) for stage, line in ray.get(board.take.remote()) if (stage, line["step"]) not in noted]
        for stage, line in lines:
            noted.add((stage, line["step"]))
            run.figures({f"{stage}.{k}": v for k, v in line.items() if k != "step"}, step=line["step"])
            curves.add(out, stage, line)
        return lines

    try:
        done = []
        while not done:
            done, _ = ray.wait([fitted], timeout=1)
            for stage, line in told():
                watch(stage, line["step"], stages[stage], f"loss {line['loss']:.3f}")
        return ray.get(fitted)
    except ray.exceptions.RayTaskError as error:
        raise UsageError(f"training failed: {_reason(error)}") from None
    except BaseException:  # the user's Ctrl-C: on a cluster, nothing else would end the workers
        ray.cancel(fitted, force=True)
        told()
        raise


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
