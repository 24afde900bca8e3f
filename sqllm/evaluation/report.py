"""An evaluation as one self-contained HTML page: what it means, the figures, and a scatter plot for each dimension."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import partial

from sqllm.evaluation.metrics import LEAST
from sqllm.evaluation.tables import ORDER
from sqllm.page import PENS, drawing, frame, table, word_columns

PLOTTED = 3000  # points of one plot; more are sampled
MEANING = {
    "single": "from the recording alone, <b>double</b> with its clean reference",
    "missing": "what got no score: of recordings judgements.csv says why",
    "r": "Pearson's r: 1 where the scores rise exactly as the votes do",
    "rho": "Spearman's rho: the same for ranks",
    "RMSE": "root mean square error, in points of the 1-5 scale",
    "MAE": "mean absolute error",
    "RMSE*": "ITU-T P.1401: only the part of an error beyond the vote's own confidence interval counts",
    "mapped": "after the third-order mapping of P.1401, which takes out a bias of the set",
    "outliers": "share of clips off by more than the vote's confidence interval",
}


def page(title: str, facts: dict[str, str], figures: Sequence[dict], judgements: Sequence[dict],
         compared: Sequence[dict] = ()) -> str:  # fmt: skip
    """The page; `facts` are lines above the figures, such as model and corpus."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [table(["", ""], [[k, v] for k, v in facts.items()])]
    parts += ["<h2>Agreement with the votes</h2>", table(*cells(figures))]
    parts += ["<p class=note>" + "; ".join(f"<b>{k}</b> {v}" for k, v in MEANING.items()) + ". Intervals hold 95 % and"
              f" resample whole conditions; where these are fewer than {LEAST}, all recordings that share a reference,"
              " which says what other talk through the same conditions would give.</p>"]  # fmt: skip
    if compared:
        parts += ["<h2>Beside the model alone, on the same clips</h2>",
                  table(*comparison_cells(compared))]  # fmt: skip
    if plots := _plots(judgements):
        parts += ["<h2>Scores against votes</h2>", *plots]
    return frame(title, parts)


DETAILS = ("tau", "outliers", "mapped RMSE", "mapped RMSE*")  # left to the page and the JSON


def cells(figures: Sequence[dict], brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table, `brief` for a terminal; columns that nothing fills are left out."""
    head = ["set", "task", "dim", "judge", "ended", "per", "n", "missing", "r", "95 %", "rho", "rho 95 %", "tau", "MAE",
            "RMSE", "RMSE*", "outliers", "mapped RMSE", "mapped RMSE*"]  # fmt: skip
    rows = []
    for f in figures:
        mapped, group = f.get("mapped", {}), f["group"] if f["by"] in ("all", "set") else f"{f['by']} {f['group']}"
        rows.append([
            group, f["task"], f["dim"], f["judge"], f["ended"], f["level"], str(f["n"]), str(f["missing"] or ""),
            _number(f.get("r")), _span(f.get("r_95")), _number(f.get("rho")),
            "" if "r" in f else _span(f.get("rho_95")), _number(f.get("tau")),
            _number(f.get("mae")), _number(f.get("rmse")), _number(f.get("rmse_star")), _number(f.get("outlier_ratio")),
            _number(mapped.get("rmse")), _number(mapped.get("rmse_star")),
        ])  # fmt: skip
    kept = [i for i in range(len(head)) if any(row[i] for row in rows) and not (brief and head[i] in DETAILS)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def comparison_cells(compared: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of `tables.comparisons`."""
    head = ["set", "dim", "per", "n", "beside the model alone", "figure", "its", "the model's", "difference", "95 %"]
    rows = []
    for c in compared:
        judge = c["judge"] if c["ended"] == "single" else f"{c['judge'] or 'the model'}, with reference"
        rows.append([
            c["group"], c["dim"], c["level"], str(c["n"]), judge, c["statistic"].replace("rmse", "RMSE"),
            _number(c["other"]), _number(c["model"]), f"{c['difference']:+.3f}", _span(c["difference_95"]),
        ])  # fmt: skip
    return head, rows


def show(result: dict, console=None) -> None:
    """Figures on a terminal: a dict of dicts and lists of dicts, each a table."""
    from rich.console import Console

    console = console or Console()
    console = console if console.is_terminal else Console(width=170)
    for name, found in result.items():
        if not isinstance(found, dict | list):
            console.print(f"{name}: {_cell(found)}", highlight=False)
            continue
        rows = found if isinstance(found, list) else [found]
        if not rows:
            continue  # too few clips for a line
        if all(isinstance(value, dict) for value in rows[0].values()):
            rows = [{name: inner, **figures} for inner, figures in rows[0].items()]
        head = list(dict.fromkeys(key for row in rows for key in row))
        console.print(f"\n[bold]{name}[/]", highlight=False)
        console.print(terminal(head, [[_cell(row.get(key)) for key in head] for row in rows]))


def terminal(head: Sequence[str], rows: Sequence[Sequence[str]]):
    """A table for rich's Console: words to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table, words = (
        Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold"),
        word_columns(rows),
    )
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i in words else "right", no_wrap=i not in words)
    for row in rows:
        table.add_row(*row)
    return table


def _cell(x) -> str:
    if isinstance(x, float):
        return _number(x)
    return "" if x is None else _span(x) if isinstance(x, list | tuple) else str(x)


def _number(x: float | None) -> str:
    return "" if x is None else "–" if x != x else f"{x:.3f}"


def _span(x: Sequence[float] | None) -> str:
    return "" if x is None or x[0] != x[0] else f"{x[0]:.3f} to {x[1]:.3f}"


def _plots(judgements: Sequence[dict]) -> list[str]:
    out = []
    ended = "double" if all(j.get("ended") == "double" for j in judgements) else "single"
    judgements = [j for j in judgements if j.get("judge") == judgements[0].get("judge")]  # the model, not its peers
    for dim in ORDER[:5]:
        points = [j for j in judgements if j["dim"] == dim and None not in (j["predicted"], j["true"])]
        points = [j for j in points if j.get("ended") in (None, ended)][:: max(1, len(points) // PLOTTED)]
        if len(points) < 3:
            continue
        label = f"{dim}: {len(points)} scores against votes"
        out.append(drawing(label, 3.4, 3.4, partial(_scatter, dim=dim, points=points)))
    return out


def _scatter(figure, dim: str, points: Sequence[dict]) -> None:
    axes = figure.subplots()
    true, predicted = [j["true"] for j in points], [j["predicted"] for j in points]
    axes.scatter(true, predicted, s=9, color=PENS["dot"], alpha=0.45)
    axes.set(ylim=(0.9, 5.1), xlabel=f"{dim}, votes", ylabel=f"{dim}, model")
    if all(1 <= t <= 5 for t in true):  # else of another scale, for ranks
        axes.plot([1, 5], [1, 5], color=PENS["soft"], lw=0.8, zorder=0)
        axes.set(xlim=(0.9, 5.1), aspect="equal")
