"""How a run is doing while it goes on: done, left, rate, expected end, failures by code."""

from __future__ import annotations

import time

from pipelines.results import Results
from pipelines.summary import in_time

EVERY_S = 1.0
QUIET_S = 120.0  # a run that has not been heard of for so long may have been stopped


def follow(out: str, console) -> None:
    """Show the run in `out` on the terminal until it ends or Ctrl-C. `console` is a rich Console."""
    from rich.live import Live

    summary = Results.open(out).summary
    try:
        with Live(console=console, transient=True) as live:
            while not summary["finished"]:
                live.update(picture(summary))
                time.sleep(EVERY_S)
                summary = Results.open(out).summary
    except KeyboardInterrupt:
        return


def picture(summary: dict, now: float | None = None):
    """Something for rich to print. `now` is the time, in seconds since 1970."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    now = now or time.time()
    done, wanted = summary["done"], summary["recordings"]
    rate, quiet = summary["recordings_per_s"], now - summary["updated_at"]
    lines = [f"[bold]{done:,}[/] of {wanted:,} recordings done, {wanted - done:,} left"]
    if rate:
        left = max((wanted - done) / rate - quiet, 0)
        end = time.strftime("%a %H:%M" if left > 12 * 3600 else "%H:%M", time.localtime(now + left))
        lines += [f"{rate:.3g} recordings/s, {summary['times_real_time']:.0f} x real time"]
        lines += [f"expected end [bold]{end}[/], in {in_time(left)}"]
    elif done < wanted:
        lines += ["the first are under way, or their model is being loaded"]
    codes = ", ".join(f"{count:,} {code}" for code, count in summary["error_codes"].items())
    lines += [f"[red]{summary['failed']:,} failed[/]; by code: {codes}" if codes else "none failed"]
    if quiet > QUIET_S:
        lines += [
            f"[yellow]nothing new for {in_time(quiet)}: if the run was stopped, the same command starts it again[/]"
        ]
    bar = ProgressBar(total=max(wanted, 1), completed=done, width=60)
    return Group(bar, *(Text.from_markup(line) for line in lines))
