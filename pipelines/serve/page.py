"""What the page (`static/`) needs from `sqllm.plain`, so that it says what a report says."""

from __future__ import annotations

from sqllm import DIMENSIONS, plain


def vocabulary() -> dict:
    """How scores and error codes are called, as JSON."""
    return {
        "scores": [
            {
                "name": name,
                "title": plain.TITLES[name],
                "meaning": plain.MEANINGS[name],
                "aspect": plain.ASPECTS.get(name),
            }
            for name in DIMENSIONS
        ],
        "scale": [{"below": below, "word": word} for below, word in plain.SCALE],
        "codes": plain.CODES,
    }


def with_facts(row: dict) -> dict:
    """An output row with "facts": what was measured, a sentence each, without times; none where nothing was scored."""
    scored = row["status"] == "ok"
    return row | {"facts": plain.facts(row["evidence"], end_s=0) if scored else []}
