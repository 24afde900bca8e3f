"""The command `sqllm serve`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from pipelines.terminal import Device, Verbose, only_our_stderr, read_yaml


def _cores() -> int:
    """All of this machine; of a cluster's nobody knows here how many one of them has."""
    return 1 if os.environ.get("RAY_ADDRESS", "local") != "local" else os.cpu_count() or 1


def serve(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A YAML file of these options and all other settings, see the README."),
    ] = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1", help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, show_default="8000")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="PRESET|DIR", show_default="embedded", help="A preset's name, or the folder of a model."),
    ] = None,
    device: Annotated[Device | None, typer.Option(show_default="auto", help="Where the model runs.")] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", show_default="1", help="Copies of the model, when they are needed."),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Answer everybody, also from other machines.")] = False,
    verbose: Verbose = False,
) -> None:
    """Answer over HTTP, with a page to try it on. API keys: SQLLM_API_KEYS, separated by commas."""
    given = {"host": host, "port": port, "model": model, "device": device and device.value}
    given |= {"max_replicas": max_replicas, "no_auth": no_auth or None}
    values = {"host": "127.0.0.1", "port": 8000, "model_cpus": _cores()}
    values |= read_yaml(config) if config else {}
    values |= {name: value for name, value in given.items() if value is not None}
    host, port = str(values.pop("host")), int(values.pop("port"))

    from pipelines.serve.settings import Settings
    from sqllm.model.config import trained

    settings = Settings.of(values)
    trained(settings.model)
    with nullcontext() if verbose else only_our_stderr():
        from pipelines.serve import launch

        launch.run(launch.check(settings, host, port), host, port, verbose)
