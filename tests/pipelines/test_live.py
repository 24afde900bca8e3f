import time
from io import StringIO
from threading import Timer

import pytest
from rich.console import Console

from pipelines import report
from pipelines.live import QUIET_S, follow, picture
from pipelines.summary import Totals, show, write_summary
from sqllm.errors import UsageError


@pytest.fixture
def half():
    """Half of 100 recordings in 100 s, two of them failed."""
    totals, now = Totals(recordings=100), time.time()
    for n in range(50):
        rows = [{"status": "failed", "error_code": "DECODE"}] if n < 2 else [{"status": "skipped", "duration_s": 20.0}]
        totals.add([row | {"model": "m"} for row in rows], ready_at=now - 100)
    return totals


def printed(summary, now):
    console = Console(width=90, file=StringIO(), record=True)
    console.print(picture(summary, now))
    return console.export_text()


def test_done_left_rate_end_and_failures(half):
    now = time.time()
    text = printed(half.as_dict(), now)
    assert "50 of 100 recordings done, 50 left" in text and "0.5 recordings/s, 10 x real time" in text
    end = [time.strftime("%H:%M", time.localtime(now + seconds)) for seconds in (98, 100, 102)]
    assert any(f"expected end {clock}, in 1.7 min" in text for clock in end)
    assert "2 failed; by code: 2 DECODE" in text and "nothing new" not in text


def test_a_run_that_says_nothing_more_is_not_taken_for_a_living_one(half):
    assert "nothing new for 3.0 min" in printed(half.as_dict(), time.time() + QUIET_S + 60)


def test_before_the_first_recording(tmp_path):
    text = printed(Totals(recordings=3).as_dict(), time.time())
    assert "0 of 3" in text and "expected end" not in text and "being loaded" in text and "none failed" in text
    write_summary(tmp_path, Totals(recordings=3))
    console = Console(width=90, file=StringIO())
    show(tmp_path, console)
    assert "0 of 3 recordings done" in console.file.getvalue() and "mean" not in console.file.getvalue()
    with pytest.raises(UsageError, match="no scores in"):
        report.write(tmp_path)


@pytest.mark.timeout(30)
def test_following_ends_with_the_run(half, tmp_path):
    write_summary(tmp_path, half)
    half.finished = True
    Timer(1.5, write_summary, (tmp_path, half)).start()
    console = Console(width=90, file=StringIO(), force_terminal=True)
    follow(tmp_path, console)
    assert "recordings done" in console.file.getvalue()
