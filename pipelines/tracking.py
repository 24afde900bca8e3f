"""What was run, in MLflow. A tracking server that is down warns once and changes nothing else."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread

from sqllm import storage

EXPERIMENT = "sqllm"
WAIT_S = 60.0  # at the end of a job, for a tracking server that is slow


class Run:
    """An open MLflow run, or none where MLflow failed."""

    def __init__(self, out: Path, name: str, run_id: str | None = None):
        self.id, self._failed = run_id, False
        self._mlflow = None
        self._try(self._start, out, name)

    def _start(self, out: Path, name: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_ENV_CREATION", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        import mlflow

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        folder, server = Path(out).absolute(), os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(server or f"sqlite:///{folder / 'mlflow.db'}")
        if not server:
            folder.mkdir(parents=True, exist_ok=True)
            if mlflow.get_experiment_by_name(EXPERIMENT) is None:
                mlflow.create_experiment(EXPERIMENT, artifact_location=(folder / "mlflow").as_uri())
        mlflow.set_experiment(EXPERIMENT)
        self.id = mlflow.start_run(run_id=self.id, run_name=None if self.id else name).info.run_id
        self._mlflow = mlflow

    def settings(self, values: Mapping) -> None:
        self._call("log_params", {k: str(v)[:6000] for k, v in values.items()})

    def figures(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._call("log_metrics", {k: float(v) for k, v in values.items() if math.isfinite(v)}, step=step)

    def file(self, path: Path) -> None:
        self._call("log_artifact", str(path))

    def text(self, text: str, name: str) -> None:
        """A file of this content."""
        self._call("log_text", text, name)

    def figure(self, figure, name: str) -> None:
        """A matplotlib Figure as an image."""
        self._call("log_figure", figure, name)

    def model(self, parts: Sequence[Path]) -> None:
        """The files of a model directory, as something that `mlflow.pyfunc.load_model` loads and that scores files."""
        if not self._mlflow or self._failed:
            return
        with TemporaryDirectory() as folder:
            for part in parts:
                os.symlink(part.absolute(), Path(folder) / part.name)  # MLflow copies what is behind it
            code = str(Path(__file__).with_name("pyfunc.py"))
            self._try(
                self._mlflow.pyfunc.log_model, name="model", python_model=code, artifacts={"model": folder},
                pip_requirements=["sqllm"],
            )  # fmt: skip

    def _call(self, name: str, *args, **options) -> None:
        if self._mlflow and not self._failed:
            self._try(getattr(self._mlflow, name), *args, **options)

    def _try(self, function, *args, **options) -> None:
        try:
            function(*args, **options)
        except Exception as error:  # whatever the server or its client throws: the run matters more
            self._failed = True
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            print(f"sqllm: MLflow is left out: {reason}", file=sys.stderr)

    def close(self, status: str) -> None:
        if self._mlflow:
            self._try(self._mlflow.end_run, status)


@contextmanager
def tracked(out: Path, name: str, run_id: str | None = None) -> Iterator[Run]:
    """A run in `MLFLOW_TRACKING_URI`, or else in `out/mlflow.db`. `run_id` goes on with an earlier one."""
    run = Run(out, name, run_id)
    try:
        yield run
    except BaseException as error:
        run.close(_ended(error))
        raise
    run.close("FINISHED")


def _ended(error: BaseException) -> str:
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


class Later:
    """A `Run` that nobody waits for: MLflow is imported, and does what it is told, in a thread of its own.

    `later("figures", {...})` calls a method of the run, which the first such call opens.
    """

    def __init__(self, out: Path, name: str):
        self._calls = SimpleQueue()
        self._thread = Thread(target=self._work, args=(out, name), daemon=True)

    def __call__(self, method: str, *args) -> None:
        self._calls.put((method, args))
        if not self._thread.ident:
            self._thread.start()

    def _work(self, out: Path, name: str) -> None:
        run = Run(out, name)
        while call := self._calls.get():
            method, args = call
            getattr(run, method)(*args)

    def close(self, status: str) -> None:
        """End the run, if there is one, and wait until all is told, or `WAIT_S` are over."""
        if not self._thread.ident:
            return
        self("close", status)
        self._calls.put(None)
        self._thread.join(WAIT_S)
        if self._thread.is_alive():
            print(f"sqllm: MLflow is left out: it took more than {WAIT_S:.0f} s", file=sys.stderr)


@contextmanager
def later(out: str, name: str) -> Iterator[Later | None]:
    """Like `tracked`, as a `Later`; None where `out` is not on this machine and MLFLOW_TRACKING_URI is not set."""
    if storage.is_remote(out) and not os.environ.get("MLFLOW_TRACKING_URI"):
        print("sqllm: without MLflow: set MLFLOW_TRACKING_URI, since --out is not on this machine", file=sys.stderr)
        yield None
        return
    run = Later(Path(storage.local(out)), name)
    try:
        yield run
    except BaseException as error:
        run.close(_ended(error))
        raise
    run.close("FINISHED")
