"""The one progress bar of a run, on stderr: recordings, hours of audio, times real time, failures."""

from __future__ import annotations

import rich.progress as rich
from rich.console import Console

from pipelines.summary import Totals, in_time


class Progress:
    """A context manager; `update` is what `score(watch=...)` calls."""

    def __init__(self, enabled: bool = True):
        console = Console(stderr=True)
        self.bar = rich.Progress(
            rich.SpinnerColumn(),
            rich.TextColumn("{task.description}"),
            rich.BarColumn(bar_width=24),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[facts]}"),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not enabled or not console.is_terminal,
        )

    def __enter__(self) -> Progress:
        self.bar.start()
        self.task = self.bar.add_task("", total=None, facts="")
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def update(self, stage: str, totals: Totals) -> None:
        facts = ""
        if totals.done:
            facts = f"{in_time(totals.audio_s)} of audio · {totals.times_real_time:.0f} x real time"
            facts += f" · [red]{totals.failed} failed[/]" if totals.failed else " · 0 failed"
        self.bar.update(
            self.task, description=stage, completed=totals.done, total=totals.recordings or None, facts=facts
        )
