"""The words of a report, and where they stand."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import numpy as np

from pipelines.report import beside, charts
from pipelines.report.clips import Clip
from pipelines.report.comparison import Comparison
from pipelines.report.gather import RATES, Gathered, Means
from pipelines.results import Results
from pipelines.summary import clock, in_time
from sqllm import DIMENSIONS, page, plain

SHOWN_VALUES = 24  # of a column, the worst
FEWEST = 5  # recordings of a value that is spoken of in a sentence
SCORES_FIRST = re.compile(r"^mos [\d.]+(, \w+ [\d.]+)*\.\s*")  # of an explanation; the card has them already
STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1.2rem 0; }
.tile { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; color: var(--soft); font-size: .85rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.2; color: var(--ink); font-weight: 600; }
ul.short { padding-left: 1.2rem; max-width: 46rem; } ul.short li { margin: .25rem 0; }
.bar { display: flex; height: 1.5rem; border-radius: .3rem; overflow: hidden; gap: 1px; max-width: 46rem; }
.bar span { min-width: 1px; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0; padding: 0; list-style: none; }
.key i { display: inline-block; width: .7rem; height: .7rem; border-radius: .15rem; margin-right: .35rem; }
.awful { background: var(--awful); } .bad { background: var(--bad); } .fair { background: var(--fair); }
.good { background: var(--good); } .best { background: var(--best); }
.card { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; margin: .8rem 0; display: grid;
        grid-template-columns: minmax(15rem, 2fr) 3fr; gap: .3rem 1.4rem; }
.card > * { min-width: 0; }
@media (max-width: 46rem) { .card { grid-template-columns: 1fr; } figure { margin-right: 0; } }
.card figure { display: block; margin: 0 0 .3rem; } .card ul { padding-left: 1.1rem; margin: .4rem 0; }
.card h3 { margin: 0; } .card svg { width: 100%; } td.t { white-space: normal; min-width: 6rem; }
.card audio { width: 100%; height: 2.4rem; } .card p { margin: .3rem 0; }
.card dl { display: grid; grid-template-columns: auto 1fr auto; gap: .1rem .6rem; margin: .5rem 0;
           align-items: center; }
.card dd { margin: 0; } .meter { background: var(--panel); border-radius: .3rem; height: .55rem; }
.meter span { display: block; height: 100%; border-radius: .3rem; }
.soft, small { color: var(--soft); }
blockquote { margin: .4rem 0; padding-left: .7rem; border-left: 3px solid var(--line); }
"""


def write_page(
    results: Results, found: Gathered, worst: Sequence[Clip], compared: Comparison | None, audio: bool
) -> str:
    """The whole document."""
    title = f"Speech quality of {results.name}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class=note>{_run(results.summary)}</p>",
        _tiles(found),
        _in_short(found, compared),
        *_scale(found),
        *_distributions(found),
        *(part for group in found.groups for part in _group(group)),
        *_conditions(found),
        *(beside.section(compared, results) if compared else ()),
        *_worst(worst, audio),
        *_failures(found),
        "<p class=note>Made by <code>sqllm report</code>. Everything is in this file"
        + (", voices of callers too: hand it on with care.</p>" if any(c.samples is not None for c in worst) and audio
           else ".</p>"),
    ]  # fmt: skip
    return page.frame(title, parts, STYLE)


def _run(summary: dict) -> str:
    done = "" if summary["finished"] else " <b>The run is not finished: this is what there is so far.</b>"
    listener = f", as a listener of the kind “{html.escape(summary['profile'])}” would" if summary["profile"] else ""
    return (f"Scored from {html.escape(summary['started_at'].replace('T', ' ').replace('Z', ' UTC'))} by model"
            f" {html.escape(str(summary['model']))}{listener}.{done}")  # fmt: skip


def _tiles(found: Gathered) -> str:
    _, mean, *_ = found.overall.of(None, "mos") if found.rows else (0, np.nan)
    failed = found.overall.of(None, "failed")[1] if found.rows else np.nan
    tiles = [
        (f"{found.recordings:,}", "recordings"),
        (in_time(found.audio_s), f"of audio, the longest {in_time(found.longest_s)}"),
        (f"{found.status['ok']:,}", f"channels scored, of {found.rows:,}"),
        ("–" if np.isnan(mean) else f"{mean:.1f} of 5", "overall score on average"
         + ("" if np.isnan(mean) else f": {plain.word(mean)}")),
        (_percent(found.bands[:2].sum() / max(found.bands.sum(), 1)), "of the scored sound poor or very bad"),
        (_percent(failed), "could not be scored"),
    ]  # fmt: skip
    cells = (f"<div class=tile><b>{big}</b>{html.escape(small)}</div>" for big, small in tiles)
    return f"<div class=tiles>{''.join(cells)}</div>"


def _in_short(found: Gathered, compared: Comparison | None) -> str:
    """The sentences that somebody in a hurry reads."""
    said = [beside.sentence(compared)] if compared else []
    if found.bands.sum():
        means = {d: found.overall.of(None, d)[1] for d in DIMENSIONS[1:]}
        worst, best = min(means, key=means.get), max(means, key=means.get)
        said.append(f"What costs most is <b>{plain.ASPECTS[worst]}</b> ({means[worst]:.1f} of 5); least does"
                    f" {plain.ASPECTS[best]} ({means[best]:.1f}).")  # fmt: skip
    for group in found.groups:
        apart = [(value, *group.of(value, "mos")) for value in group.values]
        value, n, mean, _, high = min(apart, key=lambda a: (np.isnan(a[2]), a[2]))
        overall = found.overall.of(None, "mos")[1]
        if n >= FEWEST and high < overall:
            said.append(f"By {html.escape(group.column)}, <b>{html.escape(charts.short(value))}</b> is lowest:"
                        f" {mean:.1f} on average, where all together have {overall:.1f}.")  # fmt: skip
    if found.status["failed"]:
        codes = [c for c in found.codes if c not in ("SILENT", "TOO_SHORT", "REFERENCE")]
        why = ", ".join(f"{found.codes[c]:,} {c}" for c in codes)
        said.append(f"{found.status['failed']:,} could not be scored ({why}): <a href='#failed'>why</a>.")
    return "<ul class=short>" + "".join(f"<li>{s}</li>" for s in said) + "</ul>" if said else ""


def _scale(found: Gathered) -> list[str]:
    counts = dict(zip((name for _, name in plain.SCALE), found.bands.tolist(), strict=True))
    total, low, ranges = max(sum(counts.values()), 1), 1.0, {}
    for limit, name in plain.SCALE:
        ranges[name], low = f"{low:g} to {min(limit, 5):g}", limit
    spans = "".join(f"<span class={charts.COLOURS[n]} style='flex:{c}'></span>" for n, c in counts.items() if c)
    key = "".join(f"<li><i class={charts.COLOURS[n]}></i>{n} <small>({ranges[n]})</small> {_percent(c / total)}</li>"
                  for n, c in counts.items())  # fmt: skip
    meanings = "; ".join(f"<b>{plain.TITLES[d]}</b> (<code>{d}</code>): {plain.MEANINGS[d]}" for d in DIMENSIONS)
    return [
        "<h2>How good the recordings sound</h2>",
        f"<div class=bar role=img aria-label='Shares of the overall score, see below'>{spans}</div>",
        f"<ul class=key>{key}</ul>",
        "<p class=note>Each channel of a recording (each side of a call) gets five scores from 1 (bad) to 5"
        f" (excellent), as a panel of listeners would give them on average. Higher is always better. {meanings}.</p>",
    ]


def _distributions(found: Gathered) -> list[str]:
    if not found.bands.sum():
        return []
    plots = [charts.histogram(d, found.histograms[d], found.overall.of(None, d)[1]) for d in DIMENSIONS]
    return ["<h2>How the scores are spread</h2>", *plots]


def _group(group: Means) -> list[str]:
    """The scores by one column: a picture, and the numbers."""

    def key(value):
        mean = group.of(value, "mos")[1]
        return np.isnan(mean), mean

    values = sorted(group.values, key=key)
    shown, more = values[:SHOWN_VALUES], len(values) - SHOWN_VALUES
    name = html.escape(group.column)
    rows = []
    for value in shown:
        _, mean, low, high = group.of(value, "mos")
        recordings = int(group.sums[group.values[value], :, 1].max())
        others = [_score(group.of(value, d)[1]) for d in DIMENSIONS[1:]]
        poor, failed = (_percent(group.of(value, rate)[1]) for rate in ("poor", "failed"))
        rows.append([charts.short(value), f"{recordings:,}", _score(mean), _span(low, high), poor, *others, failed])
    titles = (plain.TITLES[d].lower() for d in DIMENSIONS[1:])
    head = [group.column, "recordings", "overall", "95 %", "poor", *titles, "failed"]
    note = f" These are the {SHOWN_VALUES} lowest; {more} more are left out." if more > 0 else ""
    return [
        f"<h2>By {name}</h2>", charts.by_value(group.column, group, shown), page.table(head, rows),
        "<p class=note>With few recordings an average says little: the line around a dot, and “95 %”, show where the"
        f" average of very many would lie. “Poor” is the share of scores below 2.5.{note}</p>",
    ]  # fmt: skip


def _conditions(found: Gathered) -> list[str]:
    from scipy.stats import binomtest

    rows = []
    for name, words in RATES.items():
        n, rate = int(found.overall.sums[:, list(RATES).index(name) + len(DIMENSIONS), 0].sum()), np.nan
        if n:
            count = round(found.overall.of(None, name)[1] * n)
            rate, (low, high) = count / n, binomtest(count, n).proportion_ci(method="wilson")
            rows.append([words, _percent(rate), f"{_percent(low)} to {_percent(high)}", f"{count:,}", f"{n:,}"])
    quiet = 1 - found.speech_s / found.heard_s if found.heard_s else None
    pause = "" if quiet is None else f" In {_percent(quiet)} of the time of what was scored, nobody speaks."
    return ["<h2>What was measured</h2>", page.table(["", "share", "95 %", "channels", "of"], rows),
            f"<p class=note>Measured in the signal itself, apart from the scores.{pause}</p>"]  # fmt: skip


def _worst(worst: Sequence[Clip], audio: bool) -> list[str]:
    if not worst:
        return []
    return [
        "<h2>The worst recordings</h2>",
        "<p class=note>The lowest overall scores, and of each its worst seconds"
        + (", to listen to" if audio else "")
        + ". In the coloured picture time runs to the right and pitch upwards; what is bright is loud. Speech shows as"
        " stacked bright stripes, noise as an even veil, gaps as dark slits (a white mark above them).</p>",
        *(_card(clip, audio) for clip in worst),
    ]


def _card(clip: Clip, audio: bool) -> str:
    row = clip.row
    side = f" <small>channel {row['channel']}</small>" if row["channel"] else ""
    meters = "".join(
        f"<dt>{plain.TITLES[d]}</dt><dd class=meter><span class={charts.COLOURS[plain.word(row[d])]}"
        f" style='width:{25 * (row[d] - 1):.0f}%'></span></dd><dd>{row[d]:.1f}</dd>"
        for d in DIMENSIONS
    )
    evidence = plain.facts(row["evidence"], clip.start_s, clip.end_s) if row["evidence"] else []
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in evidence)
    said = SCORES_FIRST.sub("", row["explanation"] or "")
    words = f"<blockquote>{html.escape(said)}</blockquote>" if said else ""
    pictures = charts.timeline(clip) if len(row["windows"] or ()) > 1 else ""
    moment = f"{clock(clip.start_s)} to {clock(clip.end_s)}"
    if clip.samples is None:
        pictures += f"<p class=soft>No sound to show: {html.escape(clip.problem)}</p>"
    else:
        pictures += charts.spectrogram(clip)
        if audio:
            source = page.data_uri("audio/flac", clip.flac())
            pictures += f"<audio controls preload=none aria-label='Listen from {moment}' src='{source}'></audio>"
    folder, _, name = row["uri"].rpartition("/")
    return (
        f"<article class=card><div><h3>{html.escape(name)}{side}</h3><small>{html.escape(folder)}</small>"
        f"<dl>{meters}</dl><ul>{facts}</ul>{words}</div><div>"
        f"<p><b>{plain.word(row['worst_mos']).capitalize()}</b> ({row['worst_mos']:.1f}) at its worst, {moment}"
        f" <span class=soft>of {clock(row['duration_s'])}</span></p>{pictures}</div></article>"
    )


def _failures(found: Gathered) -> list[str]:
    if not found.codes:
        return []
    rows = [[code, f"{count:,}", plain.CODES.get(code, ""), _example(found.examples[code][0])]
            for code, count in found.codes.most_common()]  # fmt: skip
    head = ["", "channels", "which means", "such as"]
    return ["<h2 id=failed>What could not be scored, and why</h2>", page.table(head, rows),
            "<p class=note>All of them are rows of the scores too, with <code>error_code</code> and"
            " <code>error_detail</code>.</p>"]  # fmt: skip


def _example(example: tuple[str, str]) -> str:
    uri, detail = example
    return f"{uri.rpartition('/')[2]}: {detail}"[:110]


def _percent(share: float) -> str:
    if np.isnan(share):
        return "–"
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 or 0.9 < share < 1 else f"{100 * share:.0f} %"


def _score(score: float) -> str:
    return "–" if np.isnan(score) else f"{score:.2f}"


def _span(low: float, high: float) -> str:
    return "–" if np.isnan(low) else f"{low:.2f} to {high:.2f}"
