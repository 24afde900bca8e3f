"""`sqllm bench`: the speed of the model alone on this machine, or of what is built around it."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.terminal import Actors, Device, Model, Where
from sqllm.errors import UsageError

app = typer.Typer(no_args_is_help=False)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    model: Model = "embedded",
    device: Where = Device.auto,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    preset: Annotated[str | None, typer.Option(help="paper or paper-whisper, in place of --model.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Speed does not depend on them.")] = False,
) -> None:
    """Measure speed on this machine: of the model alone, unless a COMMAND says of what."""
    if context.invoked_subcommand is not None:
        return
    if preset is not None:
        from sqllm import shapes

        if not random_weights:
            raise UsageError(f"the preset {preset} has no weights that ship: add --random-weights, or name a --model")
        shapes.run(preset, device.value)
    else:
        from sqllm.bench import run

        run(model=model, device=device.value, dtype=dtype)


@app.command()
def rows(
    sizes: Annotated[list[int] | None, typer.Argument(metavar="N...", show_default="10000 100000 1000000")] = None,
) -> None:
    """What a run of N recordings costs the driver, with a stand-in for the model."""
    from pipelines.bench.rows import run

    run(sizes or [10_000, 100_000, 1_000_000])


@app.command()
def pipeline(
    recordings: Annotated[int, typer.Option(min=2, metavar="N")] = 1000,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each recording.")] = 10.0,
    model: Model = "embedded",
    device: Where = Device.auto,
    actors: Actors = None,
) -> None:
    """The whole job of `sqllm score` beside the bare Predictor, start-up apart, with the time of each stage."""
    from pipelines.bench.pipeline import run
    from pipelines.score import Settings

    run(recordings, seconds, Settings(model, device=device.value, actors=actors))


@app.command()
def serve(
    clients: Annotated[list[int] | None, typer.Argument(min=1, metavar="N...", show_default="1 4 16 64")] = None,
    model: Model = "embedded",
    device: Where = Device.auto,
    seconds: Annotated[float, typer.Option(min=1, help="Of each measurement.")] = 20.0,
) -> None:
    """The endpoint with N clients at once, at half load and under overload, against the bare Predictor."""
    from pipelines.terminal import only_our_stderr

    with only_our_stderr():
        import pipelines.cluster  # noqa: F401  before Ray: it sets what Ray reads when it is imported
        from pipelines.bench.serve import run

        run(model, device.value, clients or [1, 4, 16, 64], seconds)
