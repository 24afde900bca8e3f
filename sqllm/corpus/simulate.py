"""Draw a rated corpus from clean speech: `sqllm corpus simulate`.

Clip `i` depends on the seed and on `i` alone, so that workers may divide the numbers as they like and a run goes on
where it stopped. A shard (`sqllm.corpus.shards`) holds `SHARD` clips with the chain as JSON with spans, the expected
ratings (`sqllm.corpus.ratings`), the measured teachers (`sqllm.corpus.panel`), speaker and split. Speakers and noises
of the split "val" are never in "train".
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import soundfile as sf
import soxr

from sqllm.audio import coders
from sqllm.audio.degrade import RATE, Impairment, Sources, active_mask, apply, to_level
from sqllm.corpus import ratings
from sqllm.corpus.shards import flac
from sqllm.errors import UsageError

if TYPE_CHECKING:
    from sqllm.corpus.panel import Panel

READ = (".wav", ".flac", ".ogg", ".mp3")
SILENT = 1e-4  # of full scale
SHARD = 50
VERSION = 2  # of the simulator: another one draws other clips from a seed
VAL_EVERY = 12  # every 12th clip is a validation clip
STAGES = [
    "reverb", "noise", "babble", "talker", "fading", "clipping", "suppress", "vocoder", "world", "band", "codec",
    "mnru", "loss", "chop", "jump", "echo", "level",
]  # fmt: skip
CODECS = [
    "opus", "opus", "opus-nb", "vorbis", "mp3", "mp3-nb", "gsm", "alaw", "mulaw", "adpcm", "amr", "amr", "amr",
    "g7231", "celp", "nelly", "aac", "aac",
]  # fmt: skip
SHARES = {  # how often a kind is drawn, relative
    "noise": 5, "babble": 1.5, "talker": 1.5, "reverb": 1.5, "fading": 0.8, "clipping": 2, "suppress": 1.2, "band": 2.5,
    "codec": 3.5, "mnru": 2, "vocoder": 1, "world": 1.2, "loss": 4, "chop": 2.5, "jump": 1.8, "echo": 1.3, "level": 3,
}  # fmt: skip


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def is_val(name: str) -> bool:
    """About one speaker (or noise) in ten is kept for validation, by a hash of its name."""
    return _hash(name)[0] < 27


def divided(names: Iterable[str]) -> dict[str, set[str]]:
    """Speakers, train and val: by `is_val`, and by the order of their hashes where that leaves one without any. Only
    one name alone is in train alone."""
    order = sorted(set(names), key=_hash)
    at = min(max(sum(map(is_val, order)), 1), len(order) - 1)
    return {"train": set(order[at:]), "val": set(order[:at])}


def draw(kind: str, rng: np.random.Generator) -> Impairment:
    """One impairment of this kind with parameters from just audible to severe."""
    u = rng.uniform
    params: dict = {
        "noise": lambda: {"snr_db": u(-3, 38),
                          "colour": str(rng.choice(["recorded"] * 6 + ["white", "white", "pink", "brown"]))},
        "babble": lambda: {"snr_db": u(0, 30), "voices": int(rng.integers(3, 8))},
        "talker": lambda: {"snr_db": u(-2, 25)},
        "reverb": lambda: {"rt60_s": u(0.2, 1.6), "wet_db": u(-12, 6)},
        "fading": lambda: {"depth_db": u(6, 30), "period_s": u(0.8, 5)},
        "clipping": lambda: {"threshold": float(np.exp(u(np.log(0.015), np.log(0.7))))},
        "suppress": lambda: {"strength": u(0.5, 4), "floor_db": u(-40, -12)},
        "band": lambda: {
            "low_hz": u(50, 800) if rng.random() < 0.6 else 0.0,
            "high_hz": float(np.exp(u(np.log(1500), np.log(7500)))) if rng.random() < 0.85 else 8000.0,
        },
        "codec": lambda: {"name": str(rng.choice(CODECS)), "squeeze": float(rng.choice([u(0.85, 0.99), u(0, 0.99)])),
                          "kbps": float(rng.choice(coders.AMR_KBPS))},
        "vocoder": lambda: {"bands": int(np.exp(u(np.log(14), np.log(120)))), "rounds": int(rng.integers(0, 25))},
        "world": lambda: {"bands": int(np.exp(u(np.log(8), np.log(64)))), "frame_ms": u(4, 24),
                          "breath": float(rng.choice([0.0, u(-1, 1)])), "flutter": float(np.exp(u(-4, 0)))},
        "mnru": lambda: {"q_db": u(0, 35)},
        "loss": lambda: {"rate": float(np.exp(u(np.log(0.01), np.log(0.4)))), "burst": u(1, 5),
                         "frame_ms": int(rng.choice([10, 20, 20, 20, 40, 60])),
                         "conceal": str(rng.choice(["zero", "repeat", "fade", "fade"]))},
        "chop": lambda: {"rate": float(np.exp(u(np.log(0.005), np.log(0.35)))),
                         "gap_ms": float(np.exp(u(np.log(10), np.log(400))))},
        "jump": lambda: {"per_second": u(0.1, 6), "length_ms": u(20, 250), "mode": str(rng.choice(["skip", "repeat"]))},
        "echo": lambda: {"delay_ms": u(30, 400), "gain_db": u(-30, -3),
                         "feedback": float(rng.choice([0.0, u(0, 0.7)]))},
        "level": lambda: {"gain_db": u(-32, 12)},
    }[kind]()  # fmt: skip
    if kind == "noise" and rng.random() < 0.15:
        start = u(0, 0.6)
        params |= {"start": start, "end": min(1.0, start + u(0.15, 0.5))}
    return Impairment(kind, params)


def draw_chain(rng: np.random.Generator) -> list[Impairment]:
    """None (6 %), one, two or three different impairments, in the order of a call: room, microphone, coder, network."""
    count = rng.choice([0, 1, 2, 3], p=[0.06, 0.44, 0.32, 0.18])
    weights = np.array(list(SHARES.values()))
    kinds = rng.choice(list(SHARES), size=count, replace=False, p=weights / weights.sum())
    return [draw(str(k), rng) for k in sorted(kinds, key=STAGES.index)]


def gap_shares(chain: list[Impairment], clean: np.ndarray) -> dict[str, float]:
    """Share of the active speech under the spans of lost frames, and of mutes."""
    active, out = active_mask(clean), {}
    for step in chain:
        if step.kind in ("loss", "chop"):
            hit = np.zeros(len(active), bool)
            for a, b in step.spans:
                hit[int(a * 100) : max(int(b * 100), int(a * 100) + 1)] = True
            out[step.kind] = float((hit & active).sum() / max(active.sum(), 1))
    return out


def load(folder: str, longest_s: float = 15.0) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every audio file under a folder as float32 mono at 16 kHz, by relative name; those left out, and why.

    UsageError where none is left.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"no such folder: {folder}")
    out, left_out = {}, []
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() not in READ:
            continue
        try:
            x, rate = sf.read(path, dtype="float32", always_2d=True)
        except (sf.LibsndfileError, OSError) as error:
            left_out.append(f"{path}: {error}")
            continue
        x = x.mean(axis=1)
        if not len(x) or not np.isfinite(x).all() or np.abs(x).max() < SILENT:
            left_out.append(f"{path}: it is {'silent or empty' if np.isfinite(x).all() else 'not a number in places'}")
            continue
        x = soxr.resample(x, rate, RATE) if rate != RATE else x
        out[str(path.relative_to(folder))] = x[: int(longest_s * RATE)]
    if not out:
        raise UsageError(left_out[0] if left_out else f"no audio in {folder}: {', '.join(READ)} are read")
    return out, left_out


def speakers_of(path: str | None) -> dict[str, str]:
    """Path, and the file's name alone, -> speaker, from a CSV with columns path and speaker."""
    if path is None:
        return {}
    try:
        file = open(path, encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    with file:
        reader = csv.DictReader(file)
        if not {"path", "speaker"} <= set(reader.fieldnames or ()):
            raise UsageError(f"{path} needs columns path and speaker; it has {', '.join(reader.fieldnames or ())}")
        found = {row["path"]: row["speaker"] for row in reader if row["speaker"]}
    return {Path(name).name: speaker for name, speaker in found.items()} | found


class Pool:
    """Clean speech, noises and rooms, divided into train and val by speaker and by noise.

    `problems` says which files are left out, and which have no speaker in a table that has some.
    """

    def __init__(self, speech: str, noise: str | None, rooms: str | None, speakers: dict[str, str] | None = None):
        read = [load(folder) if folder else ({}, []) for folder in (speech, noise, rooms)]
        self.speech, noises, rooms_read = (found for found, _ in read)
        self.problems = [problem for _, problems in read for problem in problems]
        self.rooms, self.speakers = list(rooms_read.values()), speakers or {}
        unknown = [name for name in self.speech if self.speakers and not self._told(name)]
        if len(unknown) == len(self.speech):
            raise UsageError(
                f"the table of speakers names no file of {speech}: its column path should hold such as {unknown[0]}"
            )
        self.problems += [f"{name}: no speaker in the table, its name stands for one" for name in unknown]
        speakers_of_split = divided(map(self.speaker, self.speech))
        if not speakers_of_split["val"]:
            raise UsageError(
                f"only one speaker in {speech}, and others must validate: give more (a folder is one, or what stands"
                " before the first dash of a name, or what --speakers says)"
            )
        self.names = {
            split: [n for n in self.speech if self.speaker(n) in those] for split, those in speakers_of_split.items()
        }
        self.noises = {
            split: [x for n, x in noises.items() if is_val(n) == (split == "val")] for split in ("train", "val")
        }
        # by speaker first: a speaker with many clips is not heard more often than the others by more than their root
        self.weights = {}
        for split, names in self.names.items():
            count: dict[str, int] = {}
            for n in names:
                count[self.speaker(n)] = count.get(self.speaker(n), 0) + 1
            w = np.array([count[self.speaker(n)] ** -0.5 for n in names])
            self.weights[split] = w / w.sum() if len(w) else w

    def unheard(self) -> list[str]:
        """Speech of speakers whom no corpus trains on, whoever else is there. UsageError where there is none."""
        names = [name for name in self.names["val"] if is_val(self.speaker(name))]
        if not names:
            raise UsageError("training may have heard all of these speakers: give more (about one in ten is kept back)")
        return names

    def speaker(self, name: str) -> str:
        """By the table, under the whole name or the file's own; else the first folder (in it may be chapters), or what
        stands before a dash."""
        folder, *inside = Path(name).parts
        return self._told(name) or (folder if inside else name.split("-")[0])

    def _told(self, name: str) -> str | None:
        return self.speakers.get(name) or self.speakers.get(Path(name).name)

    def clip(self, seed: int, index: int) -> dict:
        """Clip number `index`: arrays `audio` and `reference`, chain, ratings, speaker, split."""
        rng = np.random.default_rng([seed, index])
        split = "val" if index % VAL_EVERY == 0 else "train"
        names = self.names[split]
        name = names[rng.choice(len(names), p=self.weights[split])]
        x = self.speech[name]
        n = min(len(x), int(rng.choice([rng.uniform(3, 10), 10]) * RATE))
        start = rng.integers(0, len(x) - n + 1)
        x = x[start : start + n]
        if rng.random() < 0.15:  # silence before and after is no fault
            x = np.pad(x, (int(rng.uniform(0, 1.5) * RATE), int(rng.uniform(0, 2) * RATE)))[: 10 * RATE]
        clean = to_level(x)
        clean = clean / max(1.0, np.abs(clean).max() / 0.99)
        others = [self.speech[names[rng.integers(len(names))]] for _ in range(4)]
        chain = draw_chain(rng)
        audio = apply(clean, chain, rng, Sources(self.noises[split], self.rooms, others))
        found = ratings.severities(chain, gap_shares(chain, clean))
        return {"index": index, "split": split, "speaker": self.speaker(name), "source": name, "audio": audio,
                "reference": clean, "chain": chain, "severities": found, **ratings.expected(found)}  # fmt: skip


def row(clip: dict) -> dict:
    """A clip as a row of a shard."""
    chain = [
        {"kind": s.kind, "params": s.params, "spans": [[float(a), float(b)] for a, b in s.spans]} for s in clip["chain"]
    ]
    packed = {"chain": json.dumps(chain), "severities": json.dumps(clip["severities"])}
    return clip | packed | {"audio": flac(clip["audio"]), "reference": flac(clip["reference"])}


def shards(clips: int) -> list[tuple[str, range]]:
    """The name of each shard of a corpus, and the numbers of its clips."""
    return [
        (f"clips-{first // SHARD:05d}.parquet", range(first, min(first + SHARD, clips)))
        for first in range(0, clips, SHARD)
    ]


def table(pool: Pool, seed: int, indices: Iterable[int], teachers: Panel | None = None) -> pa.Table:
    """The content of a shard; without `teachers` the parameters alone rate the clips."""
    coders.check()
    rows = []
    for index in indices:
        clip = pool.clip(seed, index)
        if teachers:
            clip |= teachers.rate(clip["audio"], clip["reference"])
        rows.append(row(clip))
    return pa.Table.from_pylist(rows)
