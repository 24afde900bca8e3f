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
    for n in (8, 12, 30):
        assert np.diff([100, *sorted(order[:n]), 200]).max() <= 2.2 * 100 / n + 1
    assert in_turn([]) == []


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
    assert standard_error(scores[:1], weights[:1], 60) == np.inf
