import numpy as np
import pytest

from sqllm.audio.draw import Spread, evenly, in_turn, standard_error


@pytest.mark.parametrize("length", [0, 1, 5, 8, 9, 16, 17, 100, 1000])
def test_what_is_kept_is_spread_over_the_stream(length):
    spread = Spread(8)
    for i in range(length):
        spread.add(i)
        assert len(spread._held) <= 16
    kept = spread.things()
    assert spread.seen == length and len(kept) == min(8, length) and kept == sorted(set(kept))
    if length > 8:
        gaps = np.diff([-1, *kept, length])
        assert gaps.max() <= 3 * length / 8


def test_in_turn_begins_spread_out():
    order = in_turn(range(100, 200))
    assert sorted(order) == list(range(100, 200))
    for n in (8, 12, 24, 30, 46, 80):
        assert np.diff([100, *sorted(order[:n]), 200]).max() <= 2.2 * 100 / n + 1
        assert abs(np.mean(order[:n]) - 149.5) < 4 + 100 / n  # no part of the whole weighs more
    assert in_turn([]) == [] and in_turn([7]) == [7] and in_turn("abc") == ["a", "c", "b"]


def test_evenly():
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(10, 2) == [2, 7]


def test_standard_error_is_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    scores, weights = rng.normal(3, 0.7, 60), rng.uniform(2, 10, 60)
    means, said = [], []
    for _ in range(2000):
        at = rng.permutation(60)[:12]
        means.append(np.average(scores[at], weights=weights[at]))
        said.append(standard_error(scores[at], weights[at], 60))
    assert np.sqrt(np.mean(np.square(said))) == pytest.approx(np.std(means), rel=0.1)
    assert standard_error(scores, weights, 60) == 0


def test_standard_error_of_a_call_in_stretches():
    """Each of its stretches is good or bad all through: said is what draws that are spread miss it by, and no more."""
    rng = np.random.default_rng(0)
    missed, said, by_chance = [], [], []
    for _ in range(500):
        scores = np.repeat(rng.uniform(1.5, 4.5, 4), 16) + rng.normal(0, 0.2, 64)
        start = rng.integers(4)
        at = np.arange(start, 64, 4)
        missed.append(scores[at].mean() - scores.mean())
        said.append(standard_error(scores[at], np.ones(16), 64))
        by_chance.append(scores[at].std(ddof=1) / 4 * np.sqrt(1 - 16 / 64))
    assert np.std(missed) < np.sqrt(np.mean(np.square(said))) < 0.7 * np.mean(by_chance)


def test_standard_error_of_too_few():
    scores, weights = np.arange(60.0), np.ones(60)
    assert standard_error(scores[:1], weights[:1], 60) == np.inf
