"""What a report says of an earlier run: which changes are more than chance, in words, numbers and a picture."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import partial

from pipelines.report import charts
from pipelines.report.comparison import FALSE, SMALL, Comparison, Difference
from pipelines.report.gather import RATES
from pipelines.results import Results
from sqllm import page, plain
from sqllm.page import PENS

HEARD = 0.1  # points: a smaller change of a score nobody hears
SHOWN = 24  # values of columns, the least likely to be chance first


def sentence(found: Comparison) -> str:
    """The comparison in one sentence."""
    name = html.escape(found.baseline.name)
    real = [d for d in found.differences if d.real]
    worse = [d for d in real if _worse(d)]
    if not real:
        return f"Compared with {name}, nothing changed by more than chance would."
    overall = next((d for d in real if (d.measure, d.column) == ("mos", None)), None)
    said = f"Compared with {name}, "
    if overall:
        said += (
            f"recordings sound <b>{'worse' if _worse(overall) else 'better'}</b> ({_arrow(overall)}): more than chance"
        )
    else:
        said += "the overall score changed by no more than chance would"
    places = [d for d in worse if d.column and d.measure == "mos"]
    if places:
        said += "; worse by " + ", ".join(f"{html.escape(_where(d))} ({_arrow(d)})" for d in places[:3])
    return said + f". <a href='#compared'>{len(worse)} of {len(found.differences)} figures are worse</a>."


def section(found: Comparison, results: Results) -> list[str]:
    """The part of the page."""
    baseline, differences = found.baseline, found.differences
    every = [d for d in differences if d.column is None]
    places = [d for d in differences if d.column and (d.real or d.measure == "mos")]
    places.sort(key=lambda d: (not d.real, d.p))
    parts = [
        f"<h2 id=compared>Compared with {html.escape(baseline.name)}</h2>",
        *_ruler(results, baseline),
    ]
    parts += [f"<p class=note>{_design(found)}</p>", page.table(HEAD, [_cells(d) for d in every])]
    scores = [d for d in places if d.measure == "mos"][:SHOWN]
    if scores:
        parts += ["<h3>Where</h3>", _picture(scores)]
    if places:
        left = len(places) - SHOWN
        parts += [page.table(["where", *HEAD], [[_where(d), *_cells(d)] for d in places[:SHOWN]])]
        parts += [f"<p class=note>{left} more, less remarkable ones are left out.</p>"] if left > 0 else []
    return [*parts, f"<p class=note>{_chance(found)}</p>"]


HEAD = ["what", "recordings", "then", "now", "change", "95 %", "verdict"]


def _cells(d: Difference) -> list[str]:
    n = f"{d.n[1]:,}" if d.n[0] == d.n[1] else f"{d.n[0]:,} then, {d.n[1]:,} now"
    if d.measure in RATES:
        numbers = [f"{100 * x:.1f} %" for x in (d.then, d.now)]
        change = [f"{100 * d.by:+.1f}", f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"]
    else:
        numbers = [f"{x:.2f}" for x in (d.then, d.now)]
        change = [f"{d.by:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}"]
    what = RATES.get(d.measure) or f"{plain.TITLES[d.measure].lower()} ({d.measure})"
    return [what, n, *numbers, *change, verdict(d)]


def verdict(d: Difference) -> str:
    if not d.real:
        return "no more than chance"
    word = "worse" if _worse(d) else "better"
    return f"{word}, but hardly to be heard" if d.measure not in RATES and abs(d.by) < HEARD else word


def _worse(d: Difference) -> bool:
    return d.by > 0 if d.measure in RATES else d.by < 0


def _where(d: Difference) -> str:
    return f"{d.column} {charts.short(d.value)}"


def _arrow(d: Difference) -> str:
    return f"{d.then:.1f} → {d.now:.1f}" if abs(d.by) >= HEARD else f"{d.then:.2f} → {d.now:.2f}"


def _ruler(results: Results, baseline: Results) -> list[str]:
    """A warning where the two runs were not measured alike."""
    changed = [
        f"{what} ({html.escape(str(baseline.summary[key]))} then, {html.escape(str(results.summary[key]))} now)"
        for key, what in (("model", "another model"), ("profile", "another kind of listener"))
        if baseline.summary[key] != results.summary[key]
    ]
    if not changed:
        return []
    return [f"<p><b>The runs were scored by {' and '.join(changed)}.</b> A difference may come from the ruler and not"
            " from the recordings: score the earlier ones again to be sure.</p>"]  # fmt: skip


def _design(found: Comparison) -> str:
    then = html.escape(found.baseline.summary["started_at"].replace("T", " ").replace("Z", " UTC"))
    if found.paired:
        how = f"{found.both:,} recordings are in both runs, and each is compared with itself"
    else:
        how = "The two runs hold different recordings, so that averages are compared"
    some = ". Of the many, every recording of a random share stands for all" if found.sampled else ""
    return (f"The earlier run was scored from {then}. {how}{some}. “95 %” is where the change would lie for very many"
            " recordings of the same kind; of scores more is better, of shares less.")  # fmt: skip


def _chance(found: Comparison) -> str:
    draw = "signs of the changes" if found.paired else "recordings between the two runs"
    return (
        f"Is it chance? The {draw} are shuffled thousands of times (for more than {SMALL} recordings its limit is"
        f" computed, a t test); a change is remarkable if shuffling hardly ever makes one as large. Whoever looks at"
        f" {len(found.differences)} numbers finds some remarkable ones by luck, so they are corrected together"
        f" (Benjamini and Hochberg): of those called worse or better, no more than {FALSE:.0%} should be luck."
    )


def _picture(differences: Sequence[Difference]) -> str:
    return page.drawing("Change of the overall score by value, with 95 % intervals", 5.0, 0.7 + 0.24 * len(differences),
                        partial(_draw, differences=differences))  # fmt: skip


def _draw(figure, differences: Sequence[Difference]) -> None:
    axes = figure.subplots()
    charts.bare(axes)
    axes.axvline(0, color=PENS["soft"], lw=0.8)
    for y, d in enumerate(differences):
        colour = PENS[("bad" if _worse(d) else "good") if d.real else "soft"]
        axes.plot([d.low, d.high], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
        axes.plot([d.by], [y], "o", color=colour, ms=6)
    axes.set(yticks=range(len(differences)), yticklabels=[_where(d) for d in differences])
    axes.set(ylim=(len(differences) - 0.4, -0.6), xlabel="change of the overall score; grey: no more than chance")
