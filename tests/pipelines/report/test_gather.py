import numpy as np
import pytest

from pipelines import results
from pipelines.report.gather import EXAMPLES, MOST_VALUES, Means, gather
from pipelines.results import Results


@pytest.fixture
def night(finished, ok, failed):
    rng = np.random.default_rng(0)
    rows = []
    for n in range(60):
        trunk = "abc"[n % 3]
        narrow = {"band_high_hz": 3400.0, "clipped_pct": 1.0} if n % 2 else {}
        rows += [ok(f"/{n:02}.wav", rng.uniform(1, 5), channel, narrow, trunk=trunk) for channel in range(1 + n % 2)]
    rows += [failed(f"/x{n}.wav", trunk="a") for n in range(5)] + [
        failed("/s.wav", "SILENT", channel=0, duration_s=9.0)
    ]
    return rows, finished(rows)


def test_counts_and_rates(night):
    rows, out = night
    found = gather(Results.open(out), [], 4)
    assert (found.rows, found.recordings) == (len(rows), 66)
    assert found.status == {"ok": 90, "failed": 5, "skipped": 1} and found.codes == {"DECODE": 5, "SILENT": 1}
    assert found.audio_s == pytest.approx(60 * 2 + 9) and found.longest_s == 9
    assert len(found.examples["DECODE"]) == EXAMPLES and found.examples["SILENT"] == [("/s.wav", "<SILENT>")]
    assert found.overall.of(None, "failed")[1] == pytest.approx(5 / 96)
    assert found.overall.of(None, "silent")[1] == pytest.approx(1 / 91)
    assert found.overall.of(None, "narrow")[1] == found.overall.of(None, "clipped")[1] == pytest.approx(60 / 90)
    scores = [row["mos"] for row in rows if row["status"] == "ok"]
    assert found.histograms["mos"].sum() == 90 and found.bands[:2].sum() == sum(score < 2.5 for score in scores)
    assert [row["mos"] for row in found.worst] == pytest.approx(sorted(scores)[:4])


def test_groups_have_their_own_means(night):
    rows, out = night
    [group] = gather(Results.open(out), ["trunk"], 4).groups
    assert set(group.values) == {"a", "b", "c", None}
    for trunk in "abc":
        scores = [row["mos"] for row in rows if row["status"] == "ok" and row["trunk"] == trunk]
        n, mean, low, high = group.of(trunk, "mos")
        assert n == 20 and mean == pytest.approx(np.mean(scores)) and low < mean < high
    assert group.of("a", "failed")[1] == pytest.approx(5 / 35) and np.isnan(group.of(None, "mos")[1])


def test_batches_and_files_make_no_difference(night, finished, monkeypatch):
    rows, out = night
    whole = gather(Results.open(out), ["trunk"], 4)
    monkeypatch.setattr(results, "BATCH_ROWS", 7)
    pieces = gather(Results.open(finished(rows, "again", part=9)), ["trunk"], 4)
    assert (pieces.rows, pieces.recordings, pieces.codes) == (whole.rows, whole.recordings, whole.codes)
    assert pieces.audio_s == pytest.approx(whole.audio_s)
    assert [row["uri"] for row in pieces.worst] == [row["uri"] for row in whole.worst]
    assert pieces.groups[0].of("b", "mos")[1] == pytest.approx(whole.groups[0].of("b", "mos")[1])


def test_an_interval_counts_recordings():
    """Two channels that say the same are no more evidence than one."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(1, 5, 50)
    one, two = Means(), Means()
    table = np.repeat(scores[:, None], one.sums.shape[1], 1)
    one.add(np.arange(50), table, None)
    two.add(np.repeat(np.arange(50), 2), np.repeat(table, 2, 0), None)
    assert two.of(None, "mos") == pytest.approx(one.of(None, "mos"))
    _, mean, _, high = one.of(None, "mos")
    assert high - mean == pytest.approx(2.0096 * scores.std(ddof=1) / 50**0.5, rel=1e-3)


def test_a_column_of_too_many_values_is_dropped(finished, ok):
    out = finished([ok(f"/{n}.wav", 3.0, trunk=f"t{n}") for n in range(MOST_VALUES + 10)], part=10_000)
    [group] = gather(Results.open(out), ["trunk"], 1).groups
    assert group.too_many
