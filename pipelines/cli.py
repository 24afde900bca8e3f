"""The command line. Nothing heavy is imported before a command needs it: `sqllm --help` is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sqllm.errors import AudioError, UsageError

app = typer.Typer(
    name="sqllm",
    help="Speech quality of recordings: scores from 1 (bad) to 5 (excellent) for overall quality ([bold]mos[/]),"
    " noisiness ([bold]noi[/]), coloration ([bold]col[/]), discontinuity ([bold]dis[/]) and loudness ([bold]loud[/]),"
    " and answers in words. Higher is always better.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Values from --config stand where the command line says nothing."""
    if path is None:
        return None
    import yaml

    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read --config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} should hold lines like `model: embedded`")
    known = {parameter.name for parameter in context.command.params} - {"config"}
    values = {str(name).replace("-", "_"): value for name, value in content.items()}
    for name in values.keys() - known:
        raise UsageError(f"--config {path}: no option {name!r}; there are {', '.join(sorted(known))}")
    if isinstance(values.get("source"), str):
        values["source"] = [values["source"]]
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _explain(value: str) -> str:
    from sqllm.model.config import explained_below

    explained_below(value)
    return value


def _profile(name: str | None) -> str | None:
    if name is not None:
        from sqllm.corpus.profiles import load_profiles

        profiles = load_profiles()
        if name not in profiles:
            raise UsageError(f"no listener profile {name!r}; there are {', '.join(sorted(profiles))}")
    return name


Model = Annotated[str, typer.Option(metavar="PRESET|DIR", help="A preset's name, or the folder of a model.")]
Profile = Annotated[str | None, typer.Option(metavar="NAME", help="Score as this kind of listener.")]
Where = Annotated[Device, typer.Option(help="Where the model runs; auto takes a GPU when there is one.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own log, and a traceback for what goes wrong.")]


@app.command()
def score(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="A file, a folder, a glob, or a CSV or Parquet manifest with a column `uri` (and `reference_uri`);"
            " its other columns are carried into the scores.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", show_default=False, help="Where scores/ and summary.json go; replaces them.")
    ],
    reference: Annotated[
        str | None, typer.Option(metavar="ROOT", help="Clean references: a folder with the same relative names.")
    ] = None,
    model: Model = "embedded",
    profile: Profile = None,
    explain: Annotated[
        str, typer.Option(metavar="never|below=2.5|always", callback=_explain, help="Which recordings to explain.")
    ] = "never",
    actors: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Copies of the model.", show_default="one a core, or one a GPU"),
    ] = None,
    device: Where = Device.auto,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Score only the first N recordings.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", is_eager=True, callback=_read_config, help="A YAML file of these options."),
    ] = None,
    max_failure_rate: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="SHARE", help="More failed recordings than this share: exit status 1."),
    ] = 0.5,
    verbose: Verbose = False,
) -> None:
    """Score recordings into DIR/scores (Parquet), a row for each recording and channel."""
    from pipelines.sources import find
    from sqllm.model.config import trained

    _profile(profile)
    trained(model)
    recordings = find(source, reference, limit)
    unpaired = recordings["reference_uri"].null_count if reference else 0
    if unpaired:
        print(f"sqllm: {unpaired} of {len(recordings)} recordings are scored without a reference", file=sys.stderr)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error.strerror}") from None

    from pipelines.progress import Progress
    from pipelines.score import Settings
    from pipelines.score import score as run
    from pipelines.summary import show as show_summary

    settings = Settings(model, profile, explain, actors, device.value, verbose)
    with nullcontext() if verbose else _only_our_stderr(), Progress(enabled=not verbose) as progress:
        totals = run(recordings, out, settings, watch=progress.update)
    show_summary(out, _console())
    if totals.failed > max_failure_rate * totals.recordings:
        print(
            f"sqllm: {totals.failed} of {totals.recordings} recordings failed, more than --max-failure-rate"
            f" {max_failure_rate:g}: see error_detail in {out / 'scores'}",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command()
def ask(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recording.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help='Such as "what is wrong with it?"')],
    reference: Annotated[str | None, typer.Option(metavar="FILE", help="The clean reference.")] = None,
    model: Model = "embedded",
    profile: Profile = None,
    device: Where = Device.auto,
) -> None:
    """Ask about a recording; the answer comes in words."""
    for name in filter(None, (file, reference)):
        if not os.path.isfile(name):
            raise UsageError(f"no such file: {name}")
    _profile(profile)
    from rich.console import Console

    with Console(stderr=True).status("loading the model"):
        from sqllm import Predictor

        pieces = Predictor.load(model=model, device=device.value).ask(
            file, question, reference=reference, profile=profile
        )
        first = next(iter(pieces), "")
    print(first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


@app.command()
def show(directory: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a run.")]) -> None:
    """Show the summary of a finished or half-finished run."""
    from pipelines.summary import show as show_summary

    show_summary(directory, _console())


corpus_app = typer.Typer(help="Corpora to train on and to evaluate with.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")


@corpus_app.command()
def simulate(
    speech: Annotated[str, typer.Option(metavar="DIR", show_default=False, help="Clean speech, in any format.")],
    out: Annotated[str, typer.Option(metavar="DIR|s3://", show_default=False, help="Where the shards go.")],
    clips: Annotated[int, typer.Option(min=1, metavar="N", help="How many clips of up to 10 s.")] = 1000,
    noise: Annotated[str | None, typer.Option(metavar="DIR", help="Recorded noises.")] = None,
    rooms: Annotated[str | None, typer.Option(metavar="DIR", help="Impulse responses of rooms.")] = None,
    speakers: Annotated[
        str | None, typer.Option(metavar="CSV", help="Columns path and speaker; else a folder is a speaker.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed draws the same clips.")] = 1,
    panel: Annotated[bool, typer.Option(help="Ask DistillMOS and PESQ for mos too (extra `label`).")] = True,
    verbose: Verbose = False,
) -> None:
    """Draw a rated corpus from clean speech: degraded clips with references, what was done to them, and ratings."""
    import rich.progress as rich
    from rich.console import Console

    from pipelines.simulate import simulate as run

    console = Console(stderr=True)
    with (
        nullcontext() if verbose else _only_our_stderr(),
        rich.Progress(console=console, transient=True, disable=verbose or not console.is_terminal) as progress,
    ):
        task = progress.add_task("simulating", total=None)
        made = run(
            speech, out, clips, noise, rooms, speakers, seed, panel, verbose,
            watch=lambda done, of: progress.update(task, completed=done, total=of),
        )  # fmt: skip
    print(f"{clips} clips in {out}" + ("" if made else ", all of them there before"))


def _pairs(values: list[str]) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise UsageError(f"{value!r} is not of the form NAME=VALUE")
    return dict(value.split("=", 1) for value in values)


@app.command()
def evaluate(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS...",
            show_default=False,
            help="Rated recordings: the folder of the NISQA corpus, or a CSV or Parquet with columns uri, mos, noi, ..."
            " (see --column).",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where evaluation.json and .html go.")] = Path("evaluation"),
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Instead of a model: y_true and y_pred, and if known dim, task, set, ..."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="A column that CORPUS calls otherwise: mos=score.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only rows with this value, as split=test.")
    ] = None,
    model: Model = "embedded",
    actors: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Copies of the model.", show_default="one a core, or one a GPU"),
    ] = None,
    device: Where = Device.auto,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N recordings.")] = None,
    verbose: Verbose = False,
) -> None:
    """How well a model, or anybody's predictions, agree with votes: a table, JSON, a page, an MLflow run."""
    if bool(corpus) == bool(predictions):
        raise UsageError("give a CORPUS, or --predictions CSV")
    from pipelines import evaluate as evaluation
    from sqllm.evaluation import tables

    if predictions:
        judgements = tables.predictions(predictions)
        facts = {"predictions": str(predictions), "judgements": str(len(judgements))}
    else:
        from pipelines.progress import Progress
        from pipelines.score import Settings
        from sqllm.model.config import trained

        trained(model)
        rated = evaluation.corpora(corpus, _pairs(column or []), _pairs(only or []), limit)
        settings = Settings(model, actors=actors, device=device.value, verbose=verbose)
        with nullcontext() if verbose else _only_our_stderr(), Progress(enabled=not verbose) as progress:
            judgements, totals = evaluation.judge(rated, settings, progress.update)
        facts = {"model": f"{model} {totals.model}", "corpus": ", ".join(corpus), "recordings": str(len(rated))}
        facts |= {"only": ", ".join(only)} if only else {}
    result = evaluation.write(out, f"Evaluation of {predictions or model}", facts, judgements)
    evaluation.show(result, _console())
    print(f"evaluation.json and evaluation.html are in {out}")


@app.command()
def train(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", show_default=False, help="Shards that `sqllm corpus simulate` made.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", show_default=False, help="Where the trained model goes.")],
    base: Annotated[
        str, typer.Option(metavar="PRESET|DIR", help="Configuration, base models, and weights to go on from.")
    ] = "embedded",
    fresh: Annotated[bool, typer.Option("--fresh", help="Leave the weights that BASE was trained to.")] = False,
    score_steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps of learning to score.")] = 2000,
    word_steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps of learning to answer in words.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Clips in a part of a step.")] = 8,
    parts: Annotated[int, typer.Option(min=1, metavar="N", help="Parts of a step in each worker.")] = 1,
    lr: Annotated[
        float, typer.Option(min=0, help="Learning rate of LoRA; the projector's is three times that.")
    ] = 5e-4,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that train together.")] = 1,
    device: Where = Device.auto,
    storage: Annotated[
        str | None,
        typer.Option(metavar="DIR|s3://", help="Where checkpoints go.", show_default="DIR/checkpoints"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of a run with the same --out.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Train a model with Ray Train, watched in MLflow."""
    import rich.progress as rich
    from rich.console import Console

    from pipelines.train import train as run
    from sqllm.model.config import resolve
    from sqllm.training.settings import Settings

    settings = Settings(score_steps, word_steps, batch, parts, lr, fresh)
    console = Console(stderr=True)
    with (
        nullcontext() if verbose else _only_our_stderr(),
        rich.Progress(
            *rich.Progress.get_default_columns(),
            rich.TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            disable=verbose or not console.is_terminal,
        ) as progress,
    ):
        task = progress.add_task("preparing", total=None, figures="")

        def watch(stage: str, done: int, of: int, figures: str) -> None:
            progress.update(task, description=stage, completed=done, total=of, figures=figures)

        model = run(corpus, resolve(base), out, settings, workers, device.value, storage, resume, verbose, watch)
    print(f"trained: {model}")


@app.command()
def bench(
    model: Model = "embedded",
    device: Where = Device.auto,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Measure the speed of a model on this machine."""
    from sqllm.bench import run

    run(model=model, device=device.value, dtype=dtype)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Whatever goes wrong is one line on stderr; a traceback only with --verbose."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status: Any = app(arguments, prog_name="sqllm", standalone_mode=False)
    except typer.TyperException as error:
        status = _refuse(error.format_message(), 2)
    except (UsageError, AudioError) as error:
        status = _refuse(str(error), 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        if "--verbose" in arguments:
            raise
        status = _refuse(f"{type(error).__name__}: {_gist(error)}", 1)
    if status == 130:
        _refuse("interrupted; `sqllm show DIR` tells what is there", 130)
    sys.exit(status or 0)


def _console():
    """As wide as the terminal; in a file or a log, wide enough for the table."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


@contextmanager
def _only_our_stderr() -> Iterator[None]:
    """What Ray's C++ parts write to the terminal is dropped; `sys.stderr` goes on to where it went."""
    python, descriptor = sys.stderr, os.dup(2)
    with open(os.devnull, "w") as nowhere, os.fdopen(descriptor, "w", buffering=1) as terminal:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = terminal
        try:
            yield
        finally:
            sys.stderr = python
            os.dup2(descriptor, 2)


def _refuse(reason: str, status: int) -> int:
    print(f"sqllm: {' '.join(reason.split())}", file=sys.stderr)
    return status


def _gist(error: Exception) -> str:
    """The line that matters: the first, but Ray puts the reason of a remote failure below a traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    return lines[-1] if type(error).__module__.startswith("ray.") else lines[0]


if __name__ == "__main__":
    main()
