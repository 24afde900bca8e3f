"""What scoring some windows of long calls saves, and what it costs: all are scored once, then drawn again and again.

python -m sqllm.evaluation draws CALL... [--windows 4 8 16 32] [--until-se 0.2 0.1 0.05]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from sqllm.audio import RATE, coders
from sqllm.audio.degrade import Sources, apply, to_level
from sqllm.audio.draw import MOST, Spread, in_turn, next_draw, standard_error
from sqllm.corpus.simulate import Pool, draw_chain, speakers_of
from sqllm.errors import UsageError
from sqllm.predictor import Predictor
from sqllm.recording import cut


def draws(predictor: Predictor, files: Sequence[str], windows: Sequence[int], errors: Sequence[float]) -> dict:
    """{"calls": of how many channels and windows, "draws": a row for each setting}."""
    calls = [call for file in files for call in scored(predictor, file)]
    if not calls:
        raise UsageError("none of these files has a window with speech")
    ways = [(f"--windows-per-call {k}", lambda mos, w, k=k: spread(len(mos), k)) for k in windows]
    ways += [(f"--until-se {se:g}", lambda mos, w, se=se: until(mos, w, se)) for se in errors]
    found = []
    for name, way in ways:
        drawn = [way(mos, w) for mos, w in calls]
        off = [np.average(mos[at], weights=w[at]) - np.average(mos, weights=w)
               for (mos, w), at in zip(calls, drawn, strict=True)]  # fmt: skip
        said = [standard_error(mos[at], w[at], len(mos)) for (mos, w), at in zip(calls, drawn, strict=True)]
        found.append({
            "setting": name,
            "windows scored": sum(map(len, drawn)) / sum(len(mos) for mos, _ in calls),
            "mean error": np.mean(np.abs(off)),
            "95 % below": np.quantile(np.abs(off), 0.95),
            "largest": np.max(np.abs(off)),
            "mos_se": np.sqrt(np.mean(np.square(said))),
        })  # fmt: skip
    lengths = [len(mos) for mos, _ in calls]
    within = float(np.mean([np.std(mos) for mos, _ in calls]))
    return {
        "calls": {"channels": len(calls), "windows": sum(lengths), "longest": max(lengths), "spread within": within},
        "draws": found,
    }


def made(
    folder: Path,
    speech: str,
    noise: str | None,
    speakers: str | None,
    count: int = 12,
    minutes: float = 10,
    seed: int = 1,
) -> list[str]:
    """Write calls of voices that training has not heard: one to four stretches, each with faults of its own."""
    coders.check()
    pool, files = Pool(speech, noise, None, speakers_of(speakers)), []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        stretches, names = int(rng.integers(1, 5)), pool.unheard()
        parts = []
        for length in np.full(stretches, minutes * 60 / stretches):
            x = np.zeros(0, np.float32)
            while len(x) < length * RATE:
                pause = np.zeros(int(rng.uniform(0.2, 2) * RATE), np.float32)
                x = np.concatenate([x, to_level(pool.speech[names[rng.integers(len(names))]]), pause])
            sources = Sources(pool.noises["val"], (), [pool.speech[names[rng.integers(len(names))]] for _ in range(4)])
            parts.append(apply(np.clip(x[: int(length * RATE)], -1, 1), draw_chain(rng), rng, sources))
        files.append(str(folder / f"call-{number:02d}.flac"))
        soundfile.write(files[-1], np.concatenate(parts), RATE)
    return files


def scored(predictor: Predictor, file: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each channel mos [n] and seconds of speech [n] of its windows with speech."""
    channels: dict[int | None, list[tuple[float, float]]] = {}
    for chunk in cut(file):
        mean = predictor.score_chunks([chunk])[0]["mean"]
        channels.setdefault(chunk.channel, []).extend((mean[i, 0], chunk.speech_s[i]) for i in chunk.counts)
    for pairs in channels.values():
        if pairs:
            mos, speech_s = np.array(pairs).T
            yield mos, speech_s


def spread(n: int, most: int) -> list[int]:
    drawn = Spread(most)
    for i in range(n):
        drawn.add(i)
    return drawn.things()


def until(mos: np.ndarray, weights: np.ndarray, se: float) -> list[int]:
    order = in_turn(spread(len(mos), MOST))
    n = next_draw(0)
    while n < len(order) and standard_error(mos[at := sorted(order[:n])], weights[at], len(mos)) > se:
        n += next_draw(n)
    return sorted(order[:n])
