"""`Predictor`, the only way to a score.

Notebook, batch job, endpoint and evaluation call it, so they cannot disagree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sqllm import DIMENSIONS
from sqllm.corpus.profiles import load_profiles
from sqllm.errors import AudioError, UsageError
from sqllm.faults import heard
from sqllm.model import checklist, store
from sqllm.model.answering import answer, generate_scores
from sqllm.model.config import explained_below
from sqllm.model.encoder import bucket_length
from sqllm.model.prompt import EXPLAIN, known, written
from sqllm.model.scoring import moments
from sqllm.recording import Chunk, cut, rows

BATCH = {"cpu": 4, "cuda": 64}  # windows in one pass
MODES = ("tree", "generate")
Path = str | os.PathLike


class Scores(NamedTuple):
    """Of n windows by each listener [n, listeners, 5]; `mass` is the probability of saying a score at all."""

    mean: np.ndarray
    std: np.ndarray
    mass: np.ndarray


class Predictor:
    """A trained model, ready to score recordings and to answer questions about them."""

    def __init__(self, model, fingerprint: str, mode: str = "tree"):
        self.model, self.fingerprint, self.mode = model, fingerprint, mode
        self.profiles = load_profiles()

    @classmethod
    def load(cls, model: str = "embedded", device: str = "auto", dtype: str = "auto", mode: str = "tree") -> Predictor:
        """`model` is a directory or the name of a preset that ships with the package.

        `device` auto takes a GPU when there is one; `dtype` auto is bfloat16 where the hardware multiplies it, float32
        elsewhere. `mode` "generate" writes numbers and parses them, as the paper does, instead of the answer tree.
        Raises UsageError where the model is missing, untrained, or belongs to other base weights.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device not in BATCH:
            raise UsageError(f"no device {device!r}: give auto, cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("device cuda, but torch finds no GPU here: give cpu or auto")
        if dtype == "auto":
            fast = device == "cuda" or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
            dtype = "bfloat16" if fast else "float32"
        if dtype not in ("float32", "bfloat16"):
            raise UsageError(f"no dtype {dtype!r}: give auto, float32 or bfloat16")
        if mode not in MODES:
            raise UsageError(f"no mode {mode!r}: give {' or '.join(MODES)}")
        loaded = store.load(model, device, getattr(torch, dtype))
        return cls(loaded, store.fingerprint(model, loaded.prompt, dtype, mode), mode)

    # ---- files

    def score(
        self, files: Path | Sequence[Path], references: Path | Sequence[Path | None] | None = None,
        profile: str | None = None, explain: str = "never",
    ) -> list[dict]:  # fmt: skip
        """One row (`sqllm.recording.ROW_FIELDS`) for each file and channel. A bad file is a row with a status."""
        files = [os.fspath(f) for f in ([files] if isinstance(files, str | os.PathLike) else files)]
        if references is None or isinstance(references, str | os.PathLike):
            references = [references] * (1 if references else len(files))
        references = [r and os.fspath(r) for r in references]
        if len(files) != len(references):
            raise UsageError(f"{len(files)} files and {len(references)} references: give one for each, or None")
        out = []
        for file, reference in zip(files, references, strict=True):
            scored = []  # without its audio, which for a long recording would fill the memory
            for chunk in cut(file, reference):
                scored.append((chunk.without_audio(), self.score_chunks([chunk], profile, explain)[0]))
            stamp = {"profile": profile, "model": self.fingerprint, "scored_at": datetime.now(UTC)}
            out += [row | stamp for row in rows(scored)]
        return out

    def ask(
        self, file: Path, question: str, reference: Path | None = None, profile: str | None = None
    ) -> Iterator[str]:
        """An answer in words, piece by piece, about the worst window of the recording (of all channels).

        It begins with the scores that it stands on. Raises AudioError where there is nothing to judge.
        """
        listener, worst, problem = self._listener(profile), None, None
        for chunk in cut(os.fspath(file), reference and os.fspath(reference)):
            if chunk.row and chunk.row["error_code"]:
                problem = AudioError(chunk.row["error_code"], chunk.row["error_detail"])
                if chunk.row["status"] == "failed":
                    raise problem
            mean = self.score_chunks([chunk], profile)[0]["mean"]
            for i in chunk.counts:
                if worst is None or mean[i, 0] < worst[0][0]:
                    worst = mean[i], chunk.windows[i], chunk.references and chunk.references[i], chunk.evidence[i]
        if worst is None:
            raise problem
        if problem and problem.code == "REFERENCE":
            yield f"({problem.detail}) "
        yield from self.answer(*worst, question, listener)

    # ---- windows

    def score_chunks(
        self, chunks: Sequence[Chunk], profile: str | None = None, explain: str = "never"
    ) -> list[dict | None]:
        """For each chunk what `assemble` takes: "mean", "std" [n, 5], NaN where a window does not count, and words.

        A chunk with a window below the limit of `explain` is explained; `assemble` drops that where the recording as a
        whole is not below it.
        """
        listener, below = self._listener(profile), explained_below(explain)
        every = [chunk.windows[i] for chunk in chunks for i in chunk.counts]
        laid = [chunk.references and chunk.references[i] for chunk in chunks for i in chunk.counts]
        means, stds, masses = self.score_windows(every, laid, [listener])
        at, out = 0, []
        for chunk in chunks:
            mean, std = np.full((2, len(chunk.windows), len(DIMENSIONS)), np.nan)
            here = slice(at, at := at + len(chunk.counts))
            mean[chunk.counts], std[chunk.counts] = means[here, 0], stds[here, 0]
            score = {"mean": mean, "std": std, "mass": masses[here, 0], "explain_below": below}
            if chunk.counts and np.nanmin(mean[:, 0]) < below:
                score["explanation"] = self._explanation(chunk, mean, listener)
            out.append(score)
        return out

    @torch.inference_mode()
    def score_windows(
        self, windows: Sequence[np.ndarray], references: Sequence[np.ndarray | None] | None = None,
        listeners: Sequence[str] = ("",),
    ) -> Scores:  # fmt: skip
        """Scores of windows of up to 10 s: int16 at 16 kHz, references as long as they.

        Windows share a batch with windows of the same length in seconds, so that no padding is between them.
        """
        references = references or [None] * len(windows)
        mean, std, mass = np.full((3, len(windows), len(listeners), len(DIMENSIONS)), np.nan)

        def kind(i: int) -> tuple[int, bool]:
            return bucket_length(len(windows[i])), references[i] is not None

        size = BATCH[self.model.device.type]
        for (_, paired), group in groupby(sorted(range(len(windows)), key=kind), key=kind):
            group = list(group)
            for first in range(0, len(group), size):
                at = group[first : first + size]
                audio = self._features([windows[i] for i in at])
                reference = self._features([references[i] for i in at]) if paired else None
                if self.mode == "generate":
                    mean[at], std[at] = generate_scores(self.model, audio, reference, listeners).numpy(), 0.0
                    mass[at] = np.isfinite(mean[at])
                    continue
                found = moments(self.model.score(audio, reference, listeners))
                mean[at], std[at], mass[at] = (x.cpu().numpy() for x in found)
        return Scores(mean, std, mass)

    def _features(self, windows: Sequence[np.ndarray]) -> Tensor:
        lengths = torch.tensor([len(w) for w in windows])
        x = np.zeros((len(windows), bucket_length(int(lengths.max()))), np.float32)
        for row, window in zip(x, windows, strict=True):
            row[: len(window)] = window / np.float32(32768)
        return self.model.features(torch.from_numpy(x), lengths)

    # ---- words

    def _listener(self, profile: str | None) -> str:
        if profile is None:
            return ""
        if profile not in self.profiles:
            raise UsageError(f"no listener profile {profile!r}; there are {', '.join(sorted(self.profiles))}")
        return self.profiles[profile].words

    def _explanation(self, chunk: Chunk, mean: np.ndarray, listener: str) -> str:
        i = int(np.nanargmin(mean[:, 0]))
        laid = chunk.references and chunk.references[i]
        return "".join(self.answer(mean[i], chunk.windows[i], laid, chunk.evidence[i], EXPLAIN, listener))

    def answer(
        self, mean: np.ndarray, window: np.ndarray, reference: np.ndarray | None, facts: str, question: str,
        listener: str = "",
    ) -> Iterator[str]:  # fmt: skip
        """Words about one window, int16 [n], after its scores [5], its facts (`evidence.describe`) and its faults."""
        scores = dict(zip(DIMENSIONS, mean, strict=True))
        yield written(scores) + " "
        audio = self._features([window])
        laid = None if reference is None else self._features([reference])
        found = ""
        if self.model.config.checklist:
            with torch.inference_mode():
                [costs] = checklist.costs(checklist.check(self.model, [facts], audio, laid))
            found = heard(costs)
        yield from answer(self.model, audio, laid, known(scores, facts, found, listener), question)
