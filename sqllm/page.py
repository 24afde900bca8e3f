"""Pages that stand alone in one file: no scripts, nothing from elsewhere, light and dark, as narrow as a phone."""

from __future__ import annotations

import html
import io
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #626b77; --line: #d9dde3; --dot: #2563eb;
        --panel: #f5f6f8; --awful: #b3261e; --bad: #d9652b; --fair: #c79a00; --good: #5b9e32; --best: #1f8a54; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #14171b; --soft: #9aa3af; --line: #343a42; --dot: #7aa2ff;
          --panel: #1c2026; --awful: #f0675c; --bad: #f0935c; --fair: #dfbd45; --good: #8fc765; --best: #4cc38a; }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2.4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p.note { color: var(--soft); max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } td.t, th.t { text-align: left; }
figure { display: inline-block; margin: 0 1rem 1rem 0; } svg { max-width: 100%; height: auto; }
"""
# What matplotlib draws with -> what the page shows, which changes between light and dark.
PENS = {
    "dot": "#010201", "soft": "#010202", "line": "#010203", "awful": "#010204", "bad": "#010205", "fair": "#010206",
    "good": "#010207", "best": "#010208",
}  # fmt: skip
FONT = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "svg.hashsalt": "sqllm"}
FONT |= {"text.parse_math": False}  # values of columns are drawn, and dollars in them are none of TeX's


def frame(title: str, parts: Sequence[str], style: str = "") -> str:
    """The whole document."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style><body>{''.join(parts)}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Words to the left, numbers to the right; no head where it is empty. Wide ones scroll by themselves."""
    words = word_columns(rows)

    def line(cells: Sequence[str], tag: str) -> str:
        marked = (f"<{tag} class=t>" if i in words or not any(head) else f"<{tag}>" for i in range(len(cells)))
        return "<tr>" + "".join(f"{m}{html.escape(c)}</{tag}>" for m, c in zip(marked, cells, strict=True)) + "</tr>"

    body = f"{line(head, 'th') if any(head) else ''}{''.join(line(row, 'td') for row in rows)}"
    return f"<div class=scroll tabindex=0><table>{body}</table></div>"


def word_columns(rows: Sequence[Sequence[str]]) -> set[int]:
    """The columns that hold words."""
    return {i for row in rows[:1] for i in range(len(row)) if not any(_numeric(row[i]) for row in rows)}


def _numeric(text: str) -> bool:
    return bool(re.match(r"[-+−]?\d|–", text)) and not re.search(r"[a-z]{3}", text)


def drawing(label: str, width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """What `draw` puts on a matplotlib Figure of so many inches, in the colours of `PENS`, as part of a page.

    `label` says what it shows to those who cannot see it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(FONT):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for name, pen in PENS.items():
        svg = svg.replace(pen, f"var(--{name})")
    svg = svg.replace("#000000", "currentColor").replace("<text ", '<text fill="currentColor" ')
    return f"<figure role=img aria-label='{html.escape(label, quote=True)}'>{svg}</figure>"


def data_uri(kind: str, content: bytes) -> str:
    """`content` of a MIME type such as audio/flac, for a `src`."""
    return f"data:{kind};base64,{b64encode(content).decode()}"
