"""The drawings of a report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from pipelines.report.clips import Clip
from pipelines.report.gather import BINS, Means
from pipelines.summary import clock
from sqllm.audio import RATE
from sqllm.page import PENS, drawing
from sqllm.plain import SCALE, TITLES, word

COLOURS = dict(zip((name for _, name in SCALE), ("awful", "bad", "fair", "good", "best"), strict=True))  # of words
LONGEST_NAME = 28


def pen(score: float) -> str:
    return PENS[COLOURS[word(score)]]


def histogram(dim: str, counts: np.ndarray, mean: float) -> str:
    """How often each score was given, in the colours of the words."""
    return drawing(f"{TITLES[dim]}: distribution of the scores, mean {mean:.1f}", 3.35, 2.0,
                   partial(_histogram, dim=dim, counts=counts, mean=mean))  # fmt: skip


def _histogram(figure, dim: str, counts: np.ndarray, mean: float) -> None:
    axes = figure.subplots()
    bare(axes)
    axes.bar(BINS[:-1] + 0.05, 100 * counts / max(counts.sum(), 1), 0.085, color=[pen(x + 0.05) for x in BINS[:-1]])
    axes.axvline(mean, color="black", lw=0.9)
    axes.set(xlim=(1, 5), xticks=range(1, 6), title=f"{TITLES[dim]} ({dim}), mean {mean:.1f}", ylabel="% of channels")
    axes.title.set_fontsize(10)


def by_value(column: str, group: Means, values: Sequence) -> str:
    """The mean mos of each value with its interval, the worst on top."""
    height = 0.6 + 0.24 * len(values)
    return drawing(f"Overall score by {column}: means with 95 % intervals", 5.0, height,
                   partial(_dots, group=group, values=values))  # fmt: skip


def _dots(figure, group: Means, values: Sequence) -> None:
    axes = figure.subplots()
    bare(axes)
    for y, value in enumerate(values):
        n, mean, low, high = group.of(value, "mos")
        if n:
            axes.plot([low, high], [y, y], color=PENS["soft"], lw=1.6, solid_capstyle="butt")
            axes.plot([mean], [y], "o", color=pen(mean), ms=6)
    counts = np.array([group.of(value, "mos")[:2] for value in group.values])
    if len(counts := counts[counts[:, 0] > 0]):
        axes.axvline(np.average(counts[:, 1], weights=counts[:, 0]), color=PENS["soft"], lw=0.8, ls=":")
    axes.set(yticks=range(len(values)), yticklabels=[short(value) for value in values], ylim=(len(values) - 0.4, -0.6))
    axes.set_xlabel("overall score (mos), and where its mean lies with 95 % confidence")


def short(value) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def timeline(clip: Clip) -> str:
    """The overall score of each window of a recording; the worst stands out."""
    return drawing("Overall score from moment to moment", 5.0, 1.2, partial(_timeline, clip=clip))


def _timeline(figure, clip: Clip) -> None:
    axes = figure.subplots()
    bare(axes)
    axes.axvspan(clip.start_s, clip.end_s, color=PENS["line"], alpha=0.7, lw=0)
    for window in clip.row["windows"]:
        if window["mos"] is not None:
            axes.plot([window["start_s"], window["end_s"]], [window["mos"]] * 2, color=pen(window["mos"]), lw=2.5,
                      solid_capstyle="butt")  # fmt: skip
    axes.set(ylim=(0.8, 5.2), yticks=(1, 3, 5), xlim=(0, clip.row["duration_s"]), ylabel="overall")
    _clock_axis(axes)


def spectrogram(clip: Clip) -> str:
    """What is in the worst window: time to the right, pitch upwards, loudness as brightness."""
    label = f"Spectrogram of {clock(clip.start_s)} to {clock(clip.end_s)}"
    return drawing(label, 5.0, 1.5, partial(_spectrogram, clip=clip))


def _spectrogram(figure, clip: Clip) -> None:
    from scipy.signal import ShortTimeFFT

    transform = ShortTimeFFT(np.hanning(320), hop=int(0.02 * RATE), fs=RATE)
    power = transform.spectrogram(clip.samples / np.float32(32768))
    decibels = 10 * np.log10(np.maximum(power, 1e-12))
    axes = figure.subplots()
    top = decibels.max()
    axes.imshow(decibels, origin="lower", aspect="auto", cmap="magma", vmin=top - 75, vmax=top, interpolation="none",
                extent=(clip.start_s, clip.start_s + len(clip.samples) / RATE, 0, RATE / 2000))  # fmt: skip
    for gap in (clip.row["evidence"] or {}).get("dropouts") or ():
        if clip.start_s <= gap["start_s"] < clip.end_s:
            axes.plot((gap["start_s"] + gap["end_s"]) / 2, 7.6, "v", color="#ffffff", ms=4)
    axes.set(ylabel="kHz", yticks=(0, 4, 8))
    _clock_axis(axes)


def bare(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(PENS["soft"])
    axes.tick_params(color=PENS["soft"])


def _clock_axis(axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 3, 5, 6, 10]))
    axes.xaxis.set_major_formatter(lambda seconds, _: clock(seconds))


def distributions(histograms: dict[str, np.ndarray]):
    """The histograms of all scores on one matplotlib Figure, in plain colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 2.6), layout="constrained")
    for axes, (dim, counts) in zip(figure.subplots(1, len(histograms)), histograms.items(), strict=True):
        axes.bar(BINS[:-1], counts, 0.09, align="edge")
        axes.set(xlim=(1, 5), title=dim)
    return figure
