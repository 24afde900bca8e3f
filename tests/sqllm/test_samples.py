from pathlib import Path

import pytest

from sqllm import samples
from sqllm.audio import RATE
from sqllm.audio.evidence import measure
from sqllm.audio.io import load, open_sound

FOLDER = Path(samples.__file__).parent
FILES = sorted(FOLDER.glob("*/*.flac"))


def facts(name, channel=0):
    return measure(load(str(FOLDER / f"{name}.flac"), 60)[channel])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_opens_and_holds_speech(path):
    with open_sound(str(path)) as sound:
        seconds = sum(map(len, sound.blocks)) / RATE
        assert sound.channels == (2 if "call" in path.stem else 1)
    assert seconds > 20 if "announcements" in path.stem else 5 < seconds < 12


def test_readme_lists_exactly_the_files():
    table = [line.split("`")[1] for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert sorted(table) == sorted(str(path.relative_to(FOLDER)) for path in FILES)
    assert len(FILES) == 16


def test_small():
    assert sum(path.stat().st_size for path in FILES) < 2e6


def test_each_fault_has_its_clean_version():
    clean = [path.stem for path in FILES if path.parent.name == "clean"]
    for path in FILES:
        if not path.stem.startswith(("announcements", "call")):
            assert any(path.stem.startswith(name) for name in clean)


def test_faults_are_measurable():
    assert not facts("clean/welcome-en")["dropouts"]
    assert len(facts("faulty/welcome-en-loss")["dropouts"]) >= 3
    assert facts("faulty/queue-en-clipping")["clipped_pct"] > 1 > facts("clean/queue-en")["clipped_pct"]
    quieter = facts("faulty/queue-en-quiet-30dB")["level_db"] - facts("clean/queue-en")["level_db"]
    assert quieter == pytest.approx(-30, abs=1)
    assert facts("faulty/welcome-en-noise-5dB")["snr_db"] < 10 < 18 < facts("faulty/welcome-en-noise-20dB")["snr_db"]
    assert facts("faulty/queue-fr-muffled")["band_high_hz"] < 2000 < 3400 < facts("clean/queue-fr")["band_high_hz"]
    assert facts("faulty/call-en-it-noisy-leg", 1)["snr_db"] < 15 < facts("faulty/call-en-it-noisy-leg", 0)["snr_db"]
    long = facts("faulty/announcements-en-loss-burst")["dropouts"]
    assert len(long) >= 10
    assert all(gap["start_s"] >= 9 and gap["end_s"] <= 13 for gap in long)
