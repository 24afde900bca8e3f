import numpy as np
import pytest

from pipelines import report
from pipelines.report import beside, comparison
from pipelines.results import Results


@pytest.fixture
def two(finished, ok):
    """two(shift, same=...): a run of 120 recordings, and an earlier one with `shift` more on trunk b."""

    def make(shift, same, spread=0.6, n=120):
        rng = np.random.default_rng(0)
        bases = rng.normal(3, spread, n).clip(1.2, 4.8)
        runs = []
        for night, change in (("then", 0.0), ("now", shift)):
            if not same:
                bases = rng.normal(3, spread, n).clip(1.2, 4.8)
            rows = []
            for i, base in enumerate(bases):
                mos = float(np.clip(base + rng.normal(0, 0.1) + change * (i % 2), 1, 5))
                uri = f"/{i}.wav" if same else f"/{night}/{i}.wav"
                rows += [ok(uri, mos, channel, trunk="ab"[i % 2]) for channel in (0, 1)]
            runs.append(Results.open(finished(rows, night)))
        return comparison.compare(runs[1], runs[0], n, ["trunk"])

    return make


def found(compared, measure="mos", value=None):
    return next(d for d in compared.differences if (d.measure, d.value) == (measure, value))


def test_the_same_recordings_are_compared_with_themselves(two):
    compared = two(-0.2, same=True)
    assert compared.paired and compared.both == 120
    a, b = found(compared, value="a"), found(compared, value="b")
    assert b.real and b.n == (60, 60) and b.by == pytest.approx(-0.2, abs=0.06) and b.low < b.by < b.high < 0
    assert not a.real and beside.verdict(b) == "worse" and beside.verdict(a) == "no more than chance"
    assert "worse by trunk b" in beside.sentence(compared)


def test_other_recordings_want_a_larger_change(two):
    assert not two(-0.2, same=False).paired
    assert not found(two(-0.2, same=False), value="b").real
    assert found(two(-0.9, same=False), value="b").real


def test_chance_alone_is_called_chance(two):
    compared = two(0.0, same=False)
    assert not any(d.real for d in compared.differences)
    assert "nothing changed" in beside.sentence(compared)


def test_permutation_and_its_limit_agree(two, monkeypatch):
    shuffled = found(two(-0.35, same=False))
    monkeypatch.setattr(comparison, "SMALL", 0)
    assert found(two(-0.35, same=False)).p == pytest.approx(shuffled.p, rel=0.25)


def test_a_sample_of_many_keeps_the_same_recordings_of_both(two, monkeypatch):
    monkeypatch.setattr(comparison, "SAMPLE", 60)
    compared = two(-0.4, same=True)
    assert compared.sampled and compared.paired and 15 < compared.both < 80
    assert found(compared).n[0] == compared.both


def test_another_model_is_another_ruler(finished, ok):
    rows = [ok(f"/{n}.wav", 3.0 + n / 10, trunk="t") for n in range(8)]
    then, now = finished(rows, "then", model="old"), finished(rows, "now", model="new")
    report.write(now, baseline=then)
    text = (now / "report.html").read_text()
    assert "another model (old then, new now)" in text and "each is compared with itself" in text
