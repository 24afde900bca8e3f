"""Corpora by their names on the command line, made ready to train on.

A folder (or s3://...) of shards is used where it lies. Anything else is a corpus of rated recordings
(`sqllm.corpus.manifest`), whose shards are made once, at a place under `place` that is named by its content.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from sqllm.corpus import manifest, rated
from sqllm.corpus.shards import Shards
from sqllm.errors import UsageError

Todo = list[tuple[Shards, str, list[dict]]]  # a shard to make: where, its name, its recordings


def find(
    corpora: Sequence[str], place: str, columns: Mapping[str, str] | None = None, only: Mapping[str, str] | None = None
) -> tuple[list[str], Todo]:
    """Where the shards of each corpus are, and those that are still to be made of rated recordings.

    `columns`, `only`: see `manifest.read`. UsageError where a corpus cannot be read, or where it leaks.
    """
    places, todo, drawn = [], [], True
    for corpus in corpora:
        if Shards.open(corpus).names():
            places.append(corpus)
            continue
        drawn = False
        if "://" in corpus:
            raise UsageError(f"no shards clips-*.parquet in {corpus}: `sqllm corpus simulate` makes them")
        known = rated.rows(manifest.read(corpus, columns, only))
        places.append(f"{place.rstrip('/')}/clips-{rated.key(known)}")
        shards = Shards.open(places[-1])
        there = shards.names()
        todo += [(shards, name, recordings) for name, recordings in rated.shards(known) if name not in there]
    if drawn and (columns or only):
        raise UsageError("--column and --only choose among rated recordings, and these are shards")
    return places, todo


def make(shards: Shards, name: str, recordings: list[dict]) -> None:
    """Write one shard of rated recordings."""
    shards.write(name, rated.table(recordings), group=1)


def left_out(places: Sequence[str]) -> list[str]:
    """What was wrong with recordings, or references, that the shards of rated recordings leave out; told to stderr."""
    problems = []
    for shards in map(Shards.open, places):
        for name in shards.names():
            problems += json.loads(shards.metadata(name).get(rated.LEFT_OUT, "[]"))
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        print(f"sqllm: left out of training: {problems[0]}{more}", file=sys.stderr)
    return problems
