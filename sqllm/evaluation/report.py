"""An evaluation as one self-contained HTML page: what it means, the figures, and a scatter plot for each dimension."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence

from sqllm.evaluation.tables import ORDER

PLOTTED = 3000  # points of one plot; more are sampled
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #6b7280; --line: #d9dde3; --dot: #2563eb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #14171b; --soft: #9aa3af; --line: #343a42; --dot: #7aa2ff; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note { color: var(--soft); max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } td.t, th.t { text-align: left; }
figure { display: inline-block; margin: 0 1rem 1rem 0; } svg { max-width: 100%; height: auto; }
"""
MEANING = {
    "r": "Pearson's r: 1 where the scores rise exactly as the votes do",
    "rho": "Spearman's rho: the same for ranks",
    "rmse": "root mean square error, in points of the 1-5 scale",
    "mae": "mean absolute error",
    "RMSE*": "ITU-T P.1401: only the part of an error beyond the vote's own confidence interval counts",
    "mapped": "after the third-order mapping of P.1401, which takes out a bias of the set",
    "outliers": "share of clips off by more than the vote's confidence interval",
}


def page(title: str, facts: dict[str, str], figures: Sequence[dict], judgements: Sequence[dict],
         compared: Sequence[dict] = ()) -> str:  # fmt: skip
    """The page; `facts` are lines above the figures, such as model and corpus."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [_table(["", ""], [[k, v] for k, v in facts.items()])]
    parts += ["<h2>Agreement with the votes</h2>", f"<div class=scroll>{_table(*cells(figures))}</div>"]
    parts += ["<p class=note>" + "; ".join(f"<b>{k}</b> {v}" for k, v in MEANING.items()) + ". Intervals hold 95 % and"
              " resample whole conditions.</p>"]  # fmt: skip
    if compared:
        parts += ["<h2>Beside the model alone, on the same clips</h2>",
                  f"<div class=scroll>{_table(*comparison_cells(compared))}</div>"]  # fmt: skip
    if plots := _plots(judgements):
        parts += ["<h2>Scores against votes</h2>", *plots]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


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
    statistic = compared[0]["statistic"] if compared else "r"
    head = [
        "set",
        "dim",
        "per",
        "n",
        "beside the model alone",
        statistic,
        f"{statistic} of the model",
        "difference",
        "95 %",
    ]
    rows = []
    for c in compared:
        judge = c["judge"] if c["ended"] == "single" else f"{c['judge'] or 'the model'}, with reference"
        rows.append([c["group"], c["dim"], c["level"], str(c["n"]), judge, _number(c["other"]), _number(c["model"]),
                     f"{c['difference']:+.3f}", _span(c["difference_95"])])  # fmt: skip
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
        if all(isinstance(value, dict) for value in rows[0].values()):
            rows = [{name: inner, **figures} for inner, figures in rows[0].items()]
        head = list(dict.fromkeys(key for row in rows for key in row))
        console.print(f"\n[bold]{name}[/]", highlight=False)
        console.print(terminal(head, [[_cell(row.get(key)) for key in head] for row in rows]))


def terminal(head: Sequence[str], rows: Sequence[Sequence[str]]):
    """A table for rich's Console: words to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table, words = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold"), _words(rows)
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i in words else "right", no_wrap=i not in words)
    for row in rows:
        table.add_row(*row)
    return table


def _cell(x) -> str:
    if isinstance(x, float):
        return _number(x)
    return "" if x is None else _span(x) if isinstance(x, list | tuple) else str(x)


def _words(rows: Sequence[Sequence[str]]) -> set[int]:
    """The columns that hold words."""
    return {i for row in rows[:1] for i in range(len(row)) if not any(_numeric(row[i]) for row in rows)}


def _numeric(text: str) -> bool:
    return bool(re.match(r"[-+]?\d|–", text)) and not re.search(r"[a-z]{3}", text)


def _number(x: float | None) -> str:
    return "" if x is None else "–" if x != x else f"{x:.3f}"


def _span(x: Sequence[float] | None) -> str:
    return "" if x is None else f"{x[0]:.3f} to {x[1]:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Words to the left, numbers to the right; no head where it is empty."""
    words = _words(rows)

    def line(cells: Sequence[str], tag: str) -> str:
        marked = (f"<{tag} class=t>" if i in words or not any(head) else f"<{tag}>" for i in range(len(cells)))
        return "<tr>" + "".join(f"{m}{html.escape(c)}</{tag}>" for m, c in zip(marked, cells, strict=True)) + "</tr>"

    return f"<table>{line(head, 'th') if any(head) else ''}{''.join(line(row, 'td') for row in rows)}</table>"


def _plots(judgements: Sequence[dict]) -> list[str]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    out = []
    ended = "double" if all(j.get("ended") == "double" for j in judgements) else "single"
    judgements = [j for j in judgements if j.get("judge") == judgements[0].get("judge")]  # the model, not its peers
    for dim in ORDER[:5]:
        points = [j for j in judgements if j["dim"] == dim and None not in (j["predicted"], j["true"])]
        points = [j for j in points if j.get("ended") in (None, ended)][:: max(1, len(points) // PLOTTED)]
        if len(points) < 3:
            continue
        with pyplot.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
            figure, axes = pyplot.subplots(figsize=(3.4, 3.4), layout="constrained")
            axes.scatter(
                [j["true"] for j in points], [j["predicted"] for j in points], s=9, color="#010203", alpha=0.45
            )
            axes.set(ylim=(0.9, 5.1), xlabel=f"{dim}, votes", ylabel=f"{dim}, model")
            if all(1 <= j["true"] <= 5 for j in points):  # else of another scale, for ranks
                axes.plot([1, 5], [1, 5], color="#888888", lw=0.8, zorder=0)
                axes.set(xlim=(0.9, 5.1), aspect="equal")
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
            pyplot.close(figure)
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :].replace("#010203", "var(--dot)").replace("#000000", "currentColor")
        svg = svg.replace("<text ", '<text fill="currentColor" ')
        out.append(f"<figure role=img aria-label='{dim}: {len(points)} scores against votes'>{svg}</figure>")
    return out
