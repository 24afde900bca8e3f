"""What the commands share: options with one meaning everywhere, and how they write to the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sqllm.errors import UsageError


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Model = Annotated[str, typer.Option(metavar="PRESET|DIR", help="A preset's name, or the folder of a model.")]
Profile = Annotated[str | None, typer.Option(metavar="NAME", help="Score as this kind of listener.")]
Actors = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Copies of the model.", show_default="one a core, or one a GPU")
]
Where = Annotated[Device, typer.Option(help="Where the model runs; auto takes a GPU when there is one.")]


def _level(value: float | None) -> float | None:
    from sqllm.audio.level import checked

    return checked(value)


Level = Annotated[
    float | None,
    typer.Option(
        metavar="DBOV",
        callback=_level,
        help="Judge at this active speech level (ITU-T P.56), such as -26, where listeners set the volume.",
        show_default="their own",
    ),
]
By = Annotated[
    str | None,
    typer.Option(metavar="COLUMN,...", help="Group the report by these columns; without it, by those of few values."),
]
Baseline = Annotated[
    str | None, typer.Option(metavar="DIR", help="The --out of an earlier run, for the report to compare with.")
]
Audio = Annotated[
    bool, typer.Option("--audio/--no-audio", help="Whether the report holds a few seconds of the worst recordings.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own log, and a traceback for what goes wrong.")]


def console():
    """As wide as the terminal; in a file or a log, wide enough for the table."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


def read_yaml(path: Path) -> dict:
    """The lines of --config, by option; `max-mb` is `max_mb`."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read --config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} should hold lines like `model: embedded`")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


@contextmanager
def only_our_stderr() -> Iterator[None]:
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
