"""`cut_recordings` without Ray: what is in hand when a process may die."""

import pyarrow as pa
import pytest

from pipelines.journal import DEATHS, _Journal
from pipelines.stages import cut_recordings, unpacked


class Journal(_Journal):
    """The actor's, called here."""

    def begin(self, *keys):
        return super().begin(keys)

    def end(self, *keys):
        super().end(keys)


@pytest.fixture
def block(tmp_path, record):
    uris = [str(record(tmp_path / f"{n}.wav")) for n in range(3)]
    return pa.table({"position": [10, 11, 12], "uri": uris, "reference_uri": pa.nulls(3, pa.string())})


def cut(block, journal):
    """The position of each recording as it leaves, and what is in hand then."""
    for table in cut_recordings(block, journal):
        for position, _ in unpacked(table):
            yield position, {key[1]: n for key, n in journal.in_hand.items()}


def test_a_block_is_taken_in_hand_at_once_and_let_go_one_by_one(block):
    left = list(cut(block, Journal()))
    assert left == [(10, {11: 1, 12: 1}), (11, {12: 1}), (12, {})]


def test_after_a_death_each_is_taken_alone(block):
    journal = Journal()
    next(cut(block, journal))  # and the process dies
    assert list(cut(block, journal)) == [(10, {11: 1, 12: 1}), (11, {12: 1}), (12, {})]


def test_one_that_was_in_hand_at_every_death_is_not_touched_again(block):
    journal = Journal()
    for _ in range(DEATHS):
        journal.begin(("cut", 11))
    chunks = [thing[0] for table in cut_recordings(block, journal) for _, thing in unpacked(table)]
    assert [chunk.row.get("error_code") if chunk.row else None for chunk in chunks] == [None, "DECODE", None]
