"""Scores, measured facts and error codes in words for somebody who does not know what MOS means."""

from __future__ import annotations

from collections.abc import Mapping

from sqllm.faults import upto

SCALE = (1.5, "very bad"), (2.5, "poor"), (3.5, "fair"), (4.5, "good"), (9, "excellent")  # a score below is called

NAMES = {"mos": "overall quality", "noi": "noisiness", "col": "coloration", "dis": "discontinuity", "loud": "loudness"}
TITLES = {"mos": "Overall", "noi": "Free of noise", "col": "Natural sound", "dis": "Unbroken", "loud": "Right loudness"}
MEANINGS = {
    "mos": "how good the recording sounds, all in all",
    "noi": "5: no noise at all; 1: noise or other voices drown the speaker",
    "col": "5: a natural voice; 1: muffled, tinny, hollow or distorted",
    "dis": "5: nothing is missing; 1: words drop out all the time",
    "loud": "5: a comfortable level; 1: far too quiet or far too loud",
}
ASPECTS = {"noi": "noise", "col": "coloured or distorted sound", "dis": "interruptions", "loud": "loudness"}
CODES = {
    "NOT_FOUND": "the file was not there, or could not be read",
    "DECODE": "not audio, broken, or cut off before its end",
    "UNSUPPORTED": "a format that is not installed here",
    "EMPTY": "the file holds no sound",
    "NONFINITE": "the file holds numbers that are no sound",
    "MODEL": "the model failed on it",
    "CRASH": "processes died while they scored it; it is not tried again",
    "SILENT": "nobody speaks: silence, or a steady noise or tone",
    "TOO_SHORT": "shorter than half a second",
    "REFERENCE": "scored, but without its clean reference, which does not fit",
}
NARROW_HZ, CLIPPED_PCT, QUIET_DB, LOUD_DB, NOISY_DB = 4000.0, 0.1, -40.0, -12.0, 15.0


def word(score: float) -> str:
    """What a score from 1 to 5 is called."""
    return upto(score, SCALE)


def named(scores: Mapping[str, float]) -> str:
    """Scores with their names and what they are called, the lowest first."""
    lowest = sorted(scores, key=lambda d: round(scores[d], 1))
    return ", ".join(f"{NAMES[d]} {word(round(scores[d], 1))} {scores[d]:.1f}" for d in lowest) + "."


def facts(evidence: dict, start_s: float = 0.0, end_s: float = float("inf")) -> list[str]:
    """What stands out in a row's `evidence`, a sentence each; gaps between the two times are named one by one."""
    if evidence.get("level_db") is None:
        return ["There is no sound to measure."]
    level, snr, high = evidence["level_db"], evidence["snr_db"], evidence["band_high_hz"]
    clipped, gaps, found = evidence["clipped_pct"], evidence["dropouts"] or [], []
    if snr is not None and snr < NOISY_DB:
        strength = "almost as loud as the voice" if snr < 8 else "clearly audible behind the voice"
        found.append(f"Background sound is {strength}: {max(snr, 0):.0f} dB below it.")
    if gaps:
        here = [f"{gap['start_s']:.1f} s" for gap in gaps if start_s <= gap["start_s"] < end_s]
        times = f", here at {', '.join(here[:5])}{' and more' if len(here) > 5 else ''}" if here else ""
        found.append(f"The voice is cut out {_times(len(gaps))}{times}.")
    if clipped >= CLIPPED_PCT:
        found.append(f"It is overdriven: the peaks are cut off ({clipped:.1f} % of the samples).")
    if level < QUIET_DB:
        found.append(f"It is quiet: speech at {level:.0f} dB of full scale, where about -26 dB is usual.")
    elif level > LOUD_DB:
        found.append(f"It is loud: speech at {level:.0f} dB of full scale, where about -26 dB is usual.")
    if high is not None and high < 2500:
        found.append(f"It is muffled: nothing above {high / 1000:.1f} kHz.")
    elif high is not None and high < NARROW_HZ:
        found.append(f"It has telephone sound: nothing above {high / 1000:.1f} kHz.")
    return found or ["Nothing that can be measured stands out: the model judges what it hears."]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")
