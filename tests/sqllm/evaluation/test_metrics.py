import numpy as np
import pytest
from scipy import stats

from sqllm.evaluation.metrics import agreement, by_condition, interval, map_third_order


@pytest.fixture
def votes():
    rng = np.random.default_rng(0)
    true = rng.uniform(1, 5, 200)
    return true + 0.5 * rng.standard_normal(200) + 0.3, true


def test_figures_are_scipys(votes):
    predicted, true = votes
    found = agreement(predicted, true, np.arange(200) // 4)
    assert found["n"] == 200 and found["r"] == pytest.approx(stats.pearsonr(predicted, true)[0])
    assert found["rho"] == pytest.approx(stats.spearmanr(predicted, true)[0])
    assert found["tau"] == pytest.approx(stats.kendalltau(predicted, true)[0])
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - true) ** 2)))
    for name in ("r", "rho", "mae", "rmse"):
        assert found[f"{name}_95"][0] < found[name] < found[f"{name}_95"][1]
    assert found == agreement(predicted, true, np.arange(200) // 4)  # the same from run to run


def test_clips_of_one_condition_are_drawn_together():
    rng = np.random.default_rng(1)
    condition = np.repeat(np.arange(12), 10)
    true = np.repeat(rng.uniform(1, 5, 12), 10)
    predicted = np.repeat(true[::10] + rng.normal(0, 1, 12), 10) + rng.normal(0, 0.01, 120)

    def width(found):
        return found["r_95"][1] - found["r_95"][0]

    assert width(agreement(predicted, true, condition)) > 2 * width(agreement(predicted, true))


def test_rmse_star_forgives_what_the_votes_do_not_know():
    true = np.linspace(1, 5, 20)
    ci = np.full(20, 0.3)
    within, beyond = agreement(true + 0.25, true, ci=ci), agreement(true + 0.7, true, ci=ci)
    assert within["rmse_star"] == 0 and within["outlier_ratio"] == 0
    assert beyond["rmse_star"] == pytest.approx(0.4 * np.sqrt(20 / 19)) and beyond["outlier_ratio"] == 1
    assert beyond["mapped"]["rmse"] < 1e-6 < beyond["rmse"]


def test_intervals_of_votes():
    assert interval([0.8], [16])[0] == pytest.approx(stats.t.ppf(0.975, 15) * 0.2)
    assert np.isnan(interval([0.8], [1])[0])


def test_the_mapping_never_falls_and_never_hurts(votes):
    predicted, true = votes
    bent = np.where(predicted > 3, 8 - predicted, predicted)  # what fits best falls
    for x in (predicted, bent, predicted * 1000 - 7):
        mapped = map_third_order(x, true)
        order = np.argsort(x)
        assert (np.diff(mapped[order]) > -1e-5).all()
        line = np.polyval(np.polyfit(x, true, 1), x)
        if np.polyfit(x, true, 1)[0] >= 0:
            assert np.mean((mapped - true) ** 2) <= np.mean((line - true) ** 2) + 1e-6


def test_nothing_to_correlate_is_no_number():
    found = agreement([3.0, 3.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0])
    assert np.isnan(found["r"]) and found["mae"] == 1.0
    assert np.isnan(agreement([3.0, 2.0], [3.0, 2.0])["r"])


def test_means_of_conditions():
    assert [m.tolist() for m in by_condition(["b", "a", "b"], [1, 2, 3], [4, 5, 6])] == [[2, 2], [5, 5]]
