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
from sqllm.audio import level
from sqllm.audio.draw import in_turn, kept, next_draw, standard_error
from sqllm.corpus.profiles import load_profiles
from sqllm.errors import UsageError
from sqllm.faults import heard
from sqllm.model import checklist, store
from sqllm.model.answering import answer, generate_scores
from sqllm.model.config import explained_below
from sqllm.model.encoder import bucket_length
from sqllm.model.prompt import EXPLAIN, both, known, written
from sqllm.model.scoring import moments
from sqllm.recording import ALL, Chunk, Moment, Search, Worst, cut, rows, worst_of

BATCH = {"cpu": 4, "cuda": 64}  # windows in one pass
MODES = ("tree", "generate")
DTYPES = ("float32", "bfloat16")
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
        self.batch = BATCH[model.device.type]  # halved when a GPU's memory does not hold it
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
            dtype = str(store.fast_dtype(device)).removeprefix("torch.")
        if dtype not in DTYPES:
            raise UsageError(f"no dtype {dtype!r}: give auto, float32 or bfloat16")
        if mode not in MODES:
            raise UsageError(f"no mode {mode!r}: give {' or '.join(MODES)}")
        loaded = store.load(model, device, getattr(torch, dtype))
        return cls(loaded, store.fingerprint(model, loaded.prompt, dtype, mode), mode)

    @classmethod
    def fingerprints(cls, model: str = "embedded", mode: str = "tree") -> set[str]:
        """Those that `load` may give, in one dtype or another, without loading weights. UsageError as from `load`."""
        prompt = store.load_prompt(model)
        return {store.fingerprint(model, prompt, dtype, mode) for dtype in DTYPES}

    # ---- files

    def score(
        self, files: Path | Sequence[Path], references: Path | Sequence[Path | None] | None = None,
        profile: str | None = None, explain: str = "never", windows: int | None = None, until_se: float | None = None,
        level_db: float | None = None,
    ) -> list[dict]:  # fmt: skip
        """One row (`sqllm.recording.ROW_FIELDS`) for each file and channel. A bad file is a row with a status.

        At most `windows` of a channel are scored, spread over it, or only until the standard error of its mos is
        `until_se` (`sqllm.audio.draw`). With `level_db` all are judged at that active speech level
        (`sqllm.audio.level`), not at their own.
        """
        level.checked(level_db)
        files = [os.fspath(f) for f in ([files] if isinstance(files, str | os.PathLike) else files)]
        if references is None or isinstance(references, str | os.PathLike):
            references = [references] * (1 if references else len(files))
        references = [r and os.fspath(r) for r in references]
        if len(files) != len(references):
            raise UsageError(f"{len(files)} files and {len(references)} references: give one for each, or None")
        out = []
        for file, reference in zip(files, references, strict=True):
            scored = []  # without its audio, which for a long recording would fill the memory
            for chunk in cut(file, reference, kept(windows, until_se), level_db):
                scored.append((chunk.without_audio(), self.score_chunks([chunk], profile, explain, until_se)[0]))
            stamp = {"profile": profile, "model": self.fingerprint, "scored_at": datetime.now(UTC)}
            out += [row | stamp for row in rows(scored)]
        return out

    def ask(
        self, file: Path, question: str, reference: Path | None = None, profile: str | None = None,
        other: Path | None = None, at_s: float | None = None, channel: int | None = None,
    ) -> Iterator[str]:  # fmt: skip
        """An answer in words, piece by piece, about the worst window of the recording (of all channels, or of
        `channel`), or the one at the second `at_s`; or about it and the worst of an `other` recording: the first and
        the second.

        It begins with the scores that it stands on. Raises AudioError where there is nothing to judge.
        """
        worst, unpaired = self._worst(file, reference, profile, Moment(at_s, channel))
        if unpaired:
            yield f"({unpaired}) "
        yield from self.answer_about(worst, question, profile, other and self._worst(other, None, profile)[0])

    def _worst(
        self, file: Path, reference: Path | None, profile: str | None, moment: Moment = ALL
    ) -> tuple[Worst, str | None]:
        search = Search(moment)
        for chunk in map(moment.of, cut(os.fspath(file), reference and os.fspath(reference))):
            search.take(chunk, self.score_chunks([chunk], profile)[0]["mean"])
        return search.found()

    # ---- windows

    def score_chunks(
        self, chunks: Sequence[Chunk], profile: str | None = None, explain: str = "never", until_se: float | None = None
    ) -> list[dict | None]:
        """For each chunk what `assemble` takes: "mean", "std" [n, 5], NaN where a window does not count, and words.

        A chunk with a window below the limit of `explain` is explained; `assemble` drops that where the recording as a
        whole is not below it. With `until_se` a chunk must be all of its channel (`cut` with `windows`): a few windows
        of it are scored, then half as many again, until the standard error of mos is that small.
        """
        listener, below = self._listener(profile), explained_below(explain)
        found = [np.full((2, len(chunk.windows), len(DIMENSIONS)), np.nan) for chunk in chunks]
        drawn: list[list[int]] = [[] for _ in chunks]
        left = [in_turn(chunk.counts) if until_se else chunk.counts for chunk in chunks]
        while any(left):
            most = [next_draw(len(done)) if until_se else None for done in drawn]
            taken = [order[:n] for order, n in zip(left, most, strict=True)]
            pairs = [(chunk, i) for chunk, these in zip(chunks, taken, strict=True) for i in these]
            laid = [chunk.references and chunk.references[i] for chunk, i in pairs]
            means, stds, _ = self.score_windows([chunk.windows[i] for chunk, i in pairs], laid, [listener])
            at = 0
            for n, (chunk, these) in enumerate(zip(chunks, taken, strict=True)):
                here = slice(at, at := at + len(these))
                found[n][:, these] = means[here, 0], stds[here, 0]
                drawn[n] += these
                left[n] = left[n][len(these) :]
                if left[n] and self._enough(chunk, found[n][0, :, 0], sorted(drawn[n]), until_se):
                    left[n] = []
        out = []
        for chunk, (mean, std), these in zip(chunks, found, drawn, strict=True):
            score = {"mean": mean, "std": std, "explain_below": below} | ({"drawn": these} if until_se else {})
            if these and np.nanmin(mean[:, 0]) < below:
                score["explanation"] = "".join(self.answer_about(worst_of(chunk, mean), None, profile))
            out.append(score)
        return out

    @staticmethod
    def _enough(chunk: Chunk, mos: np.ndarray, drawn: list[int], until_se: float) -> bool:
        weights = np.asarray(chunk.speech_s)[drawn]
        return standard_error(mos[drawn], weights, chunk.of or len(chunk.counts)) <= until_se

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

        for (_, paired), group in groupby(sorted(range(len(windows)), key=kind), key=kind):
            left = list(group)
            while left:
                at = left[: self.batch]
                laid = [references[i] for i in at] if paired else None
                try:
                    mean[at], std[at], mass[at] = self._pass([windows[i] for i in at], laid, listeners)
                except torch.OutOfMemoryError:
                    if len(at) == 1:
                        raise
                    self.batch = len(at) // 2  # and stays so: the memory does not grow
                    torch.cuda.empty_cache()
                    continue
                left = left[len(at) :]
        return Scores(mean, std, mass)

    def _pass(self, windows, references, listeners) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        audio, laid = self._features(windows), references and self._features(references)
        if self.mode == "generate":
            mean = generate_scores(self.model, audio, laid, listeners).numpy()
            return mean, np.zeros_like(mean), np.isfinite(mean)
        return tuple(x.cpu().numpy() for x in moments(self.model.score(audio, laid, listeners)))

    def _features(self, windows: Sequence[np.ndarray]) -> Tensor:
        lengths = torch.tensor([len(w) for w in windows])
        x = np.zeros((len(windows), bucket_length(int(lengths.max()))), np.int16)
        for row, window in zip(x, windows, strict=True):
            row[: len(window)] = window
        # divided where the model is: a GPU would wait for the CPU to do it
        return self.model.features(torch.from_numpy(x).to(self.model.device).float() / 32768, lengths)

    # ---- words

    def _listener(self, profile: str | None) -> str:
        if profile is None:
            return ""
        if profile not in self.profiles:
            raise UsageError(f"no listener profile {profile!r}; there are {', '.join(sorted(self.profiles))}")
        return self.profiles[profile].words

    def answer_about(
        self, worst: Worst, question: str | None = None, profile: str | None = None, other: Worst | None = None
    ) -> Iterator[str]:
        """Words about the worst window, piece by piece, after its scores; what is wrong, without a question."""
        return self.answer(worst, EXPLAIN if question is None else question, self._listener(profile), other)

    def answer(self, worst: Worst, question: str, listener: str = "", other: Worst | None = None) -> Iterator[str]:
        """Words about one window or two, after their scores, facts and faults."""
        compared = [w._replace(told=w.facts()) for w in ([worst] if other is None else [worst, other])]
        scores = [dict(zip(DIMENSIONS, each.mean, strict=True)) for each in compared]
        yield " ".join(map(written, scores)) + " "
        found = [self._heard(each) for each in compared]
        told = [known(s, w.facts(), f[2], listener) for s, w, f in zip(scores, compared, found, strict=True)]
        audio, laid, _ = found[0]
        yield from answer(self.model, audio, laid, told[0] if other is None else both(*told), question)

    @torch.inference_mode()
    def _heard(self, worst: Worst) -> tuple[Tensor, Tensor | None, str]:
        """Features of a window and of its reference, and the faults that are heard."""
        audio = self._features([worst.window])
        laid = None if worst.reference is None else self._features([worst.reference])
        if not self.model.config.checklist:
            return audio, laid, ""
        [costs] = checklist.costs(checklist.check(self.model, [worst.facts()], audio, laid))
        return audio, laid, heard(costs)
