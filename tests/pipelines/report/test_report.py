import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from pipelines import report
from sqllm.errors import UsageError


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def night(tmp_path, finished, ok, failed, record):
    """Eight recordings, of which the worst is there and the second worst is not, and a few that failed."""
    worst = record(tmp_path / "calls/<worst>.wav", seconds=25.0)
    windows = [dict(start_s=s, end_s=s + 10, mos=m, noi=m, col=m, dis=m, loud=m)
               for s, m in ((0.0, 3.0), (10.0, 1.2), (15.0, 2.0))]  # fmt: skip
    gaps = {"dropouts": [{"start_s": 12.3, "end_s": 12.4}], "dropout_pct": 0.4, "snr_db": 5.0}
    rows = [
        ok(worst, 1.4, evidence=gaps, windows=windows, worst_start_s=10.0, worst_mos=1.2, duration_s=25.0, trunk="a&b",
           explanation="mos 1.4, noi 1.4, col 2.0, dis 2.1, loud 3.0. It <hisses>."),
        ok(tmp_path / "calls/gone.wav", 1.8, trunk="a&b"),
        *(ok(f"/{n}.wav", 4.0, trunk="good") for n in range(6)),
        failed("/broken.wav", trunk="good"),
    ]  # fmt: skip
    return worst, finished(rows)


def test_one_file_that_stands_alone(night):
    _, out = night
    assert report.write(out).place == str(out / "report.html")
    text = (out / "report.html").read_text()
    tags = Tags(text)
    assert "script" not in tags.seen and "link" not in tags.seen
    assert all(link.startswith(("data:", "#")) for link in tags.links)
    assert "#010" not in text and "prefers-color-scheme: dark" in text
    words = " ".join(tags.words)
    for said in ("<worst>.wav", "a&b", "By trunk", "0:10 to 0:20", "It <hisses>.", "here at 12.3 s", "5 dB below",
                 "<DECODE>", "not audio, broken", "No sound to show: no such file"):  # fmt: skip
        assert said in words, said
    assert "By carrier" not in words  # a column without values


def test_the_player_holds_what_the_model_heard_in_the_worst_window(night):
    worst, out = night
    report.write(out)
    [flac] = re.findall(r"src='data:audio/flac;base64,([^']+)'", (out / "report.html").read_text())
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(flac)), dtype="int16")
    whole, _ = soundfile.read(worst, dtype="int16")
    assert rate == 16000 and np.array_equal(heard, whole[160_000:320_000])


def test_without_audio(night):
    _, out = night
    report.write(out, audio=False)
    text = (out / "report.html").read_text()
    assert "data:audio" not in text and "<audio" not in text and "Spectrogram" in text


def test_by_columns(night):
    _, out = night
    report.write(out, by=["carrier"])
    words = " ".join(Tags((out / "report.html").read_text()).words)
    assert "By carrier" in words and "By trunk" not in words
    with pytest.raises(UsageError, match=r"--by site: .* it had trunk, carrier"):
        report.write(out, by=["site"])


def test_a_run_in_which_all_failed(finished, failed):
    out = finished([failed(f"/{n}.wav", trunk="t") for n in range(3)])
    report.write(out)
    words = " ".join(Tags((out / "report.html").read_text()).words)
    assert "3 could not be scored" in words and "nan" not in words


def test_a_fault_of_the_report_is_one_line(tmp_path, capsys):
    report.attempt(tmp_path)
    said = capsys.readouterr()
    assert said.err.startswith("sqllm: no report: ") and said.err.count("\n") == 1 and not said.out
