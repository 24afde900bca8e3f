from io import StringIO

import pytest
from rich.console import Console

from pipelines.sink import Sink, row_schema
from pipelines.summary import SHOWN, Totals, show, write_summary
from sqllm.errors import UsageError


def row(uri, mos=None, **others):
    scores = dict.fromkeys(("mos", "noi", "col", "dis", "loud"), mos)
    return {"uri": uri, "channel": 0, "status": "ok", "duration_s": 60.0, "model": "m", **scores, **others}


def printed(out, width):
    console = Console(width=width, file=StringIO(), record=True)
    show(out, console)
    return console.export_text()


@pytest.fixture
def run(tmp_path):
    """run(rows) writes them as a run in tmp_path."""
    import pyarrow as pa

    def write(rows):
        totals = Totals(recordings=len(rows), partitions=["fingerprint=m"])
        sink = Sink(tmp_path / "scores/fingerprint=m", row_schema(pa.schema([])))
        for each in rows:
            totals.add([each], ready_at=0.0)
            sink.write([each])
        sink.flush()
        write_summary(tmp_path, totals)
        return totals

    return write


def test_counts(run):
    failed = {"status": "failed", "error_code": "DECODE", "channel": None, "duration_s": None}
    totals = run([row("/a", 4.0), row("/b", 2.0), row("/c", **failed)]).as_dict()
    assert totals["status"] == {"ok": 2, "failed": 1} and totals["error_codes"] == {"DECODE": 1}
    assert totals["mean_scores"]["mos"] == 3.0 and totals["hours"] == 0.0333
    assert not totals["finished"]


def test_a_mean_is_rounded_once(run, tmp_path):
    run([row("/a.wav", 3.0), row("/b.wav", 3.6992)])
    assert "3.3" in printed(tmp_path, 100).split("mean")[1]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_says_what_went_wrong(run, tmp_path, width):
    failed = {"status": "failed", "error_code": "DECODE", "error_detail": "not audio " * 30, "channel": None}
    run(
        [row("/calls/" + "long" * 30 + ".wav", 1.2, worst_start_s=61.0, worst_mos=1.1), row("/calls/[x].wav", **failed)]
    )
    text = printed(tmp_path, width)
    assert "1:01 (1.1)" in text
    assert "DECODE" in text and "[x].wav" in text and "not finished" in text
    table = text.split("2 of 2")[0]
    assert max(map(len, table.splitlines())) <= width


def test_a_short_name_stands_beside_a_long_reason(run, tmp_path):
    run([row("/a.wav", status="failed", error_code="DECODE", error_detail="not audio " * 30)])
    assert "a.wav" in printed(tmp_path, 110)


def test_the_worst_of_many(run, tmp_path):
    run([row(f"/{n:03}.wav", 1 + n / 50) for n in range(100)] + [row("/bad.wav", status="failed", error_code="EMPTY")])
    text = printed(tmp_path, 100)
    assert "000.wav" in text and f"{SHOWN - 1:03}.wav" in text and f"{SHOWN:03}.wav" not in text
    assert "the 20 worst of 101 rows" in text and "1 EMPTY" in text


def test_no_run(tmp_path):
    with pytest.raises(UsageError, match="no scores in"):
        show(tmp_path, Console())


def test_a_run_that_has_only_begun(run, tmp_path):
    run([])
    assert "0 of 0 recordings done" in printed(tmp_path, 80)
