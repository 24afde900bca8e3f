"""The command line. Nothing heavy is imported before a command needs it: `sqllm --help` is instant."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines import bench, engineer
from pipelines.serve import command
from pipelines.terminal import (
    Actors,
    Audio,
    Baseline,
    By,
    Device,
    Level,
    Model,
    Profile,
    Verbose,
    Where,
    console,
    only_our_stderr,
    read_yaml,
)
from sqllm.audio.draw import MOST
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


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Values from --config stand where the command line says nothing."""
    if path is None:
        return None
    known = {parameter.name for parameter in context.command.params} - {"config"}
    values = read_yaml(path)
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


def _names(by: str | None) -> list[str]:
    return [name.strip() for name in (by or "").split(",") if name.strip()]


@app.command()
def score(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="A file, a folder, a glob, or a CSV or Parquet manifest with a column `uri` (and `reference_uri`),"
            " here or on s3://; a manifest's other columns are carried into the scores.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Where scores/ and report.html go; what is scored there already is not scored again.",
        ),
    ],
    reference: Annotated[
        str | None, typer.Option(metavar="ROOT", help="Clean references: a folder with the same relative names.")
    ] = None,
    model: Model = "embedded",
    profile: Profile = None,
    explain: Annotated[
        str, typer.Option(metavar="never|below=2.5|always", callback=_explain, help="Which recordings to explain.")
    ] = "never",
    windows_per_call: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Score K windows of 10 s, spread over the call.", show_default="all"),
    ] = None,
    until_se: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="POINTS",
            help="Score windows, spread over the call, until the standard error of its mos is so small;"
            f" at most {MOST}, or K.",
        ),
    ] = None,
    level: Level = None,
    actors: Actors = None,
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
    by: By = None,
    baseline: Baseline = None,
    audio: Audio = True,
    verbose: Verbose = False,
) -> None:
    """Score recordings into DIR/scores (Parquet), a row for each recording and channel, and DIR/report.html."""
    from pipelines.results import Results
    from pipelines.sources import find
    from sqllm.model.config import trained

    _profile(profile)
    trained(model)
    recordings = find(source, reference, limit)
    unpaired = recordings["reference_uri"].null_count if reference else 0
    if unpaired:
        print(f"sqllm: {unpaired} of {len(recordings)} recordings are scored without a reference", file=sys.stderr)
    for name in set(_names(by)) - set(recordings.column_names):
        raise UsageError(f"--by {name}: no manifest has such a column")
    if baseline is not None:
        Results.open(baseline)
    from pipelines.progress import Progress
    from pipelines.remembered import Remembered
    from pipelines.report import attempt as attempt_report
    from pipelines.score import Settings
    from pipelines.score import score as run
    from pipelines.summary import show as show_summary
    from pipelines.tracking import later

    settings = Settings(model, profile, explain, windows_per_call, until_se, level, actors, device.value, verbose)
    with later(out, f"score {os.path.basename(out.rstrip('/'))}") as tracked:
        remembered = Remembered(tracked, settings, source)
        with nullcontext() if verbose else only_our_stderr(), Progress(enabled=not verbose) as progress:
            totals = run(recordings, out, settings, watch=lambda *now: (progress.update(*now), remembered.update(*now)))
        show_summary(out, console())
        remembered.end(totals, attempt_report(out, _names(by), baseline, audio))
    if totals.failed > max_failure_rate * totals.recordings:
        print(
            f"sqllm: {totals.failed} of {totals.recordings} recordings failed, more than --max-failure-rate"
            f" {max_failure_rate:g}: see error_detail in {out}",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command()
def pack(
    source: Annotated[list[str], typer.Argument(metavar="SOURCE", show_default=False, help="As for `sqllm score`.")],
    out: Annotated[str, typer.Option(metavar="DIR|s3://", show_default=False, help="Where the shards go.")],
    reference: Annotated[
        str | None, typer.Option(metavar="ROOT", help="Clean references: a folder with the same relative names.")
    ] = None,
    shard_mb: Annotated[int, typer.Option(min=1, metavar="N", help="Megabytes of a shard, more or less.")] = 256,
    verbose: Verbose = False,
) -> None:
    """Pack loose recordings into Parquet shards, which `sqllm score` takes as SOURCE: faster to list and to fetch."""
    import rich.progress as rich
    from rich.console import Console

    from pipelines.pack import pack as run
    from pipelines.sources import find

    errors = Console(stderr=True)
    recordings = find(source, reference)
    with (
        nullcontext() if verbose else only_our_stderr(),
        rich.Progress(console=errors, transient=True, disable=verbose or not errors.is_terminal) as progress,
    ):
        task = progress.add_task("packing", total=recordings.num_rows)
        counts = run(
            recordings, out, shard_mb << 20, verbose, watch=lambda done, of: progress.update(task, completed=done)
        )
    unread = f"; {counts['unread']} could not be read, and will score as NOT_FOUND" if counts["unread"] else ""
    shards = f"{counts['shards']} shard" + "s" * (counts["shards"] > 1)
    print(f"{counts['recordings']} recordings, {counts['bytes'] / 1e6:.1f} MB, in {shards} in {out}{unread}")


@app.command()
def ask(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recording.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help='Such as "what is wrong with it?"')],
    reference: Annotated[str | None, typer.Option(metavar="FILE", help="The clean reference.")] = None,
    other: Annotated[str | None, typer.Option(metavar="FILE", help="A second recording, to compare with.")] = None,
    at: Annotated[float | None, typer.Option(metavar="S", min=0, help="About this second, not the worst.")] = None,
    channel: Annotated[int | None, typer.Option(metavar="N", min=0, help="About this channel.")] = None,
    model: Model = "embedded",
    profile: Profile = None,
    device: Where = Device.auto,
) -> None:
    """Ask about a recording, or about two; the answer comes in words."""
    for name in filter(None, (file, reference, other)):
        if "://" not in name and not os.path.isfile(name):
            raise UsageError(f"no such file: {name}")
    _profile(profile)
    from rich.console import Console

    with Console(stderr=True).status("loading the model"):
        from sqllm import Predictor

        pieces = Predictor.load(model=model, device=device.value).ask(
            file, question, reference=reference, profile=profile, other=other, at_s=at, channel=channel
        )
        first = next(iter(pieces), "")
    print(first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


@app.command()
def show(directory: Annotated[str, typer.Argument(metavar="DIR", help="The --out of a run.")]) -> None:
    """Show the summary of a run; one that is going on is followed until it ends (or Ctrl-C)."""
    from pipelines.live import follow
    from pipelines.summary import show as show_summary

    if sys.stdout.isatty():
        follow(directory, console())
    show_summary(directory, console())


@app.command()
def report(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="The --out of a run.")],
    by: By = None,
    baseline: Baseline = None,
    audio: Audio = True,
) -> None:
    """Write DIR/report.html again: what a run found, for people."""
    from pipelines.report import write

    print(write(directory, _names(by), baseline, audio).place)


app.add_typer(bench.app, name="bench")
app.add_typer(engineer.corpus, name="corpus")
app.command()(engineer.evaluate)
app.command()(engineer.train)
app.command()(command.serve)


GO_ON = {  # after Ctrl-C
    "score": "`sqllm show DIR` tells what is there, and the same command goes on",
    "train": "the same command with --resume goes on from the last checkpoint",
}


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
        _refuse("; ".join(["interrupted", *(GO_ON[name] for name in arguments[:1] if name in GO_ON)]), 130)
    sys.exit(status or 0)


def _refuse(reason: str, status: int) -> int:
    print(f"sqllm: {' '.join(reason.split())}", file=sys.stderr)
    return status


def _gist(error: Exception) -> str:
    """The line that matters: the first, but Ray puts the reason of a remote failure below a traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    return lines[-1] if type(error).__module__.startswith("ray.") else lines[0]


if __name__ == "__main__":
    main()
