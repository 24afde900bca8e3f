"""The commands of who trains and evaluates: `sqllm corpus simulate`, `sqllm train`, `sqllm evaluate`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipelines.terminal import Actors, Device, Level, Model, Verbose, Where, console, only_our_stderr
from sqllm.errors import UsageError

corpus = typer.Typer(help="Corpora to train on and to evaluate with.", no_args_is_help=True)


@corpus.command()
def simulate(
    speech: Annotated[str, typer.Option(metavar="DIR", show_default=False, help="Clean speech (WAV, FLAC, Ogg, MP3).")],
    out: Annotated[str, typer.Option(metavar="DIR|s3://", show_default=False, help="Where the shards go.")],
    clips: Annotated[int, typer.Option(min=1, metavar="N", help="How many clips of up to 10 s.")] = 1000,
    noise: Annotated[str | None, typer.Option(metavar="DIR", help="Recorded noises.")] = None,
    rooms: Annotated[str | None, typer.Option(metavar="DIR", help="Impulse responses of rooms.")] = None,
    speakers: Annotated[
        str | None,
        typer.Option(metavar="CSV", help="Columns path and speaker; else a folder is one, or what precedes a dash."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The same seed draws the same clips.")] = 1,
    panel: Annotated[bool, typer.Option(help="Ask DistillMOS, PESQ and ViSQOL for mos too (extra `label`).")] = True,
    verbose: Verbose = False,
) -> None:
    """Draw a rated corpus from clean speech: degraded clips with references, what was done to them, and ratings."""
    import rich.progress as rich
    from rich.console import Console

    from pipelines.simulate import simulate as run

    errors = Console(stderr=True)
    with (
        nullcontext() if verbose else only_our_stderr(),
        rich.Progress(console=errors, transient=True, disable=verbose or not errors.is_terminal) as progress,
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


def evaluate(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS",
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
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Only rows with this value, as split=test; != for any other."),
    ] = None,
    ranks: Annotated[bool, typer.Option("--ranks", help="Compare ranks only: votes may be on any scale.")] = False,
    peers: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Beside it distillmos, dnsmos, plcmos, pesq, visqol (extra `peers`)."),
    ] = None,
    model: Model = "embedded",
    level: Level = None,
    actors: Actors = None,
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
        given = {"--peers": peers, "--column": column, "--only": only, "--limit": limit, "--level": level}
        given["--model"] = model != "embedded"
        if without := next((name for name, value in given.items() if value), None):
            raise UsageError(f"{without} needs the recordings: give a CORPUS instead of --predictions")
        judgements = tables.predictions(predictions, ranks)
        facts = {"predictions": str(predictions), "judgements": str(len(judgements))}
    else:
        from pipelines.progress import Progress
        from pipelines.score import Settings
        from sqllm.evaluation.peers import check
        from sqllm.model.config import trained

        trained(model)
        names = [name.strip() for name in (peers or "").split(",") if name.strip()]
        check(names)
        rated = evaluation.corpora(corpus, _pairs(column or []), _pairs(only or []), limit, ranks)
        settings = Settings(model, level=level, actors=actors, device=device.value, verbose=verbose)
        with nullcontext() if verbose else only_our_stderr(), Progress(enabled=not verbose) as progress:
            judgements, totals = evaluation.judge(rated, settings, progress.update)
            if names:
                judgements = [j | {"judge": Path(model).name} for j in judgements]
                judgements += evaluation.judge_by_peers(rated, names, settings)
        facts = {"model": f"{model} {totals.model}", "corpus": ", ".join(corpus), "recordings": str(len(rated))}
        given = {"column": ", ".join(column or []), "only": ", ".join(only or []), "peers": ", ".join(names)}
        given |= {"limit": limit and str(limit), "level": None if level is None else f"{level:g} dBov"}
        facts |= {name: value for name, value in given.items() if value}
    facts |= {"compared": "ranks"} if ranks else {}
    result = evaluation.write(out, f"Evaluation of {predictions or model}", facts, judgements, ranks)
    evaluation.show(result, console())
    if not any(j["predicted"] is not None for j in judgements):
        raise UsageError("nothing was judged: see the column missing, and try `sqllm score` on one of the recordings")
    print(f"evaluation.json and evaluation.html are in {out}")


def train(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS",
            show_default=False,
            help="Shards of `sqllm corpus simulate` (a folder or s3://...), the folder of the NISQA corpus, or a CSV or"
            " Parquet with columns uri, mos, noi, ... (see --column).",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the trained model goes.")] = Path("model"),
    more: Annotated[list[str] | None, typer.Option("--corpus", metavar="CORPUS", help="The same.")] = None,
    base: Annotated[
        str,
        typer.Option(
            "--preset", "--base", metavar="PRESET|DIR", help="Configuration, base models, and weights to go on from."
        ),
    ] = "embedded",
    fresh: Annotated[bool, typer.Option("--fresh", help="Leave the weights that BASE was trained to.")] = False,
    encoder: Annotated[
        str | None, typer.Option(metavar="DIR|NAME", help="Another encoder: a directory, or a name on the hub.")
    ] = None,
    language_model: Annotated[str | None, typer.Option(metavar="DIR|NAME", help="Another language model.")] = None,
    encoder_training: Annotated[
        str | None,
        typer.Option(metavar="frozen|query|full", help="What the encoder learns.", show_default="as BASE has it"),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="A column that CORPUS calls otherwise: mos=score.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only rows with this value.")] = None,
    score_steps: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Steps of learning to score.", show_default="2000")
    ] = None,
    word_steps: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Steps of learning to answer.", show_default="1000")
    ] = None,
    listen_steps: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Steps of projector (and encoder) without the LM.", show_default="4000"),
    ] = None,
    reference_steps: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Steps of what such a one makes of a reference.", show_default="score-steps / 4"
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Steps of a model that learns both at once.", show_default="10240"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Clips in a part of a step.", show_default="8; paper 4")
    ] = None,
    parts: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Parts of a step in each worker.", show_default="1")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Learning rate of LoRA; an encoder's is a tenth (paper: the same).",
            show_default="5e-4; paper 4e-5",
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option(help="Less memory for more computing.", show_default="paper only")
    ] = None,
    report_every: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Steps between two reports; every eighth is a checkpoint.", show_default="25"
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that train together.")] = 1,
    device: Where = Device.auto,
    storage: Annotated[
        str | None,
        typer.Option(metavar="DIR|s3://", help="Where checkpoints go.", show_default="DIR/checkpoints"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of a run with the same --out and options.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Train a model with Ray Train, watched in MLflow."""
    if not (corpora := [*(corpus or []), *(more or [])]):
        raise UsageError("give a CORPUS to train on")
    import rich.progress as rich
    from rich.console import Console

    from pipelines.train import train as run
    from sqllm.model.config import base as base_model
    from sqllm.training.settings import Settings

    if lr is not None and lr <= 0:
        raise UsageError(f"--lr {lr:g}: nothing is learned at that rate")
    config, bases = base_model(base)
    given = {"encoder": encoder, "language_model": language_model, "encoder_training": encoder_training}
    config = replace(config, **{name: value for name, value in given.items() if value})
    settings = Settings.of(
        base, score_steps=score_steps, word_steps=word_steps, listen_steps=listen_steps, steps=steps, batch=batch,
        reference_steps=reference_steps, parts=parts, lr=lr, gradient_checkpointing=gradient_checkpointing,
        fresh=fresh, report_every=report_every,
    )  # fmt: skip
    errors = Console(stderr=True)
    with (
        nullcontext() if verbose else only_our_stderr(),
        rich.Progress(
            *rich.Progress.get_default_columns(),
            rich.TextColumn("{task.fields[figures]}"),
            console=errors,
            transient=True,
            disable=verbose or not errors.is_terminal,
        ) as progress,
    ):
        task = progress.add_task("preparing", total=None, figures="")

        def watch(stage: str, done: int, of: int, figures: str) -> None:
            if not errors.is_terminal:
                print(f"{stage}: {done} of {of} {figures}".rstrip(), file=sys.stderr, flush=True)
            progress.update(task, description=stage, completed=done, total=of, figures=figures)

        model = run(
            corpora, base, config, bases, out, settings, workers, device.value, storage, resume, verbose,
            _pairs(column or []), _pairs(only or []), watch,
        )  # fmt: skip
    print(f"trained: {model}")
