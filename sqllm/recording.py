"""A recording on its way to a score: bytes -> `Chunk`s of windows -> window scores -> one row per channel.

`cut` runs where CPUs are, `Predictor.score_chunks` where the model is, `assemble` anywhere. The notebook, the batch job
and the endpoint call these same three, so that they cannot disagree. The rules (what is a window, what is silent, what
is too short) are in `sqllm.audio.windows`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import compress, groupby
from typing import NamedTuple

import numpy as np

from sqllm import DIMENSIONS
from sqllm.audio import RATE, align, evidence, level
from sqllm.audio.draw import Spread, standard_error
from sqllm.audio.io import open_sound, to_int16
from sqllm.audio.windows import FRAME, FRAME_S, MIN_S, Windower, speech_frames
from sqllm.errors import AudioError

CHUNK_WINDOWS = 32
HELD_WINDOWS = 128  # of all channels together: a file of many channels is given out in shorter chunks
SKIPPED = ("SILENT", "TOO_SHORT")  # decoded well and holds nothing to score; all other codes are `failed`

ROW_FIELDS = (
    *("recording_id", "uri", "channel", "reference_uri", "status", "error_code", "error_detail"),
    *("duration_s", "speech_s", *(f"{name}{part}" for name in DIMENSIONS for part in ("", "_std")), "mos_se"),
    *("worst_start_s", "worst_mos", "windows", "evidence", "alignment", "explanation", "profile", "model", "scored_at"),
)
VERSION = ("size", "etag")  # of the source: what a batch's rows carry, so that a changed file is scored again


@dataclass
class Chunk:
    """Up to `CHUNK_WINDOWS` consecutive windows of one channel of one recording.

    A recording gives, for each channel, one or more chunks in order; the last one has `row` filled with everything that
    is known without the model (status, durations, evidence, alignment). A recording that cannot be opened gives exactly
    one chunk without windows, `channel` None and a row with status "failed".
    """

    uri: str
    channel: int | None
    index: int  # position among the chunks of this channel
    windows: list[np.ndarray] = field(default_factory=list)  # int16, 16 kHz, each of its own length up to 10 s
    references: list[np.ndarray] | None = None  # the aligned reference of each window, same lengths
    starts_s: list[float] = field(default_factory=list)
    speech_s: list[float] = field(default_factory=list)  # speech in each window; 0: the window does not count
    of: int | None = None  # windows with speech from which these were drawn; None: these are all
    row: dict | None = None

    @property
    def counts(self) -> list[int]:
        """The windows with speech: those that are scored."""
        return [i for i, speech_s in enumerate(self.speech_s) if speech_s > 0]

    def without_audio(self) -> Chunk:
        """The same chunk, which only knows how long its windows were: all that `assemble` needs."""
        return replace(self, windows=[range(len(window)) for window in self.windows], references=None)


class Moment(NamedTuple):
    """What a question is about, where it is not about all of a recording: a second of it, or one of its channels."""

    at_s: float | None = None
    channel: int | None = None

    def of(self, chunk: Chunk) -> Chunk:
        """The chunk, in which no other window counts."""
        here = [
            self.channel in (None, chunk.channel) and (self.at_s is None or 0 <= self.at_s - start < len(window) / RATE)
            for start, window in zip(chunk.starts_s, chunk.windows, strict=True)
        ]
        return replace(chunk, speech_s=[s if kept else 0.0 for s, kept in zip(chunk.speech_s, here, strict=True)])

    def missing(self) -> AudioError:
        """Nothing counted."""
        at = "" if self.at_s is None else f" at {self.at_s:g} s"
        where = "" if self.channel is None else f" in channel {self.channel}"
        return AudioError("SILENT", f"nobody speaks{at}{where}")


ALL = Moment()


class Worst(NamedTuple):
    """The window of a recording with the lowest mos: what words are about."""

    mean: np.ndarray  # [5]
    window: np.ndarray
    reference: np.ndarray | None
    start_s: float
    told: str | None = None  # in place of what is measured

    def facts(self) -> str:
        """What is measured of the window, in words, for the prompt; only where words are asked, as it takes 3 ms."""
        return evidence.describe(evidence.measure(self.window, self.start_s)) if self.told is None else self.told


def worst_of(chunk: Chunk, mean: np.ndarray, worst: Worst | None = None) -> Worst | None:
    """The worst window of a chunk with the scores [n, 5], unless `worst`, from before, is no better."""
    known = np.flatnonzero(np.isfinite(mean[:, 0]))
    if not len(known) or (worst is not None and mean[known, 0].min() >= worst.mean[0]):
        return worst
    i = int(known[mean[known, 0].argmin()])
    return Worst(mean[i], chunk.windows[i], chunk.references and chunk.references[i], chunk.starts_s[i])


@dataclass
class Search:
    """For what a question is about: it takes the chunks of a recording, in order, and keeps the worst window."""

    moment: Moment = ALL
    worst: Worst | None = None
    unpaired: str | None = None  # why the reference is not used
    skipped: AudioError | None = None  # why a channel has no score

    def take(self, chunk: Chunk, mean: np.ndarray | None) -> None:
        """`mean`: [n, 5], or None where no window counts. AudioError where the recording fails."""
        if mean is not None:
            self.worst = worst_of(chunk, mean, self.worst)
        if not (chunk.row and chunk.row["error_code"]):
            return
        error = AudioError(chunk.row["error_code"], chunk.row["error_detail"])
        if chunk.row["status"] == "failed":
            raise error
        if chunk.row["status"] == "ok":
            self.unpaired = error.detail
        else:
            self.skipped = error

    def found(self) -> tuple[Worst, str | None]:
        """The worst window, and why it was scored without its reference, if it was. AudioError where there is none."""
        if self.worst is None:
            raise self.skipped or self.moment.missing()
        return self.worst, self.unpaired


def recording_id(uri: str) -> int:
    """A signed 64-bit id that depends on the URI alone."""
    return int.from_bytes(hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=8).digest(), signed=True)


def cut(
    uri: str, reference: str | None = None, windows: int | None = None, level_db: float | None = None
) -> Iterator[Chunk]:
    """Decode, check, align and window one recording in bounded memory. Never raises for a bad file.

    With `windows` a channel is one chunk of at most so many of its windows with speech, spread over it. With `level_db`
    its windows, and its reference, have that active speech level (`sqllm.audio.level`); the row tells its own.

    The chunks of a channel come in order; chunks of different channels alternate. With `reference` (the URI of the
    clean signal, as many channels as the recording or one) every window has its aligned piece of it; a reference that
    cannot be used leaves the recording single-ended, with status "ok" and error_code REFERENCE. A file that breaks on
    the way ends each of its channels with a failed row, which voids the chunks given out before.
    """
    channels: list[_Channel] = []
    try:
        with open_sound(uri) as sound:
            matches, problem = align.match(uri, reference) if reference else (None, None)
            for number in range(sound.channels):
                channel_match = matches[number] if matches else None
                channel = _Channel(uri, number, sound.channels, reference, channel_match, problem)
                channel.drawn = Spread(windows) if windows else None
                channels.append(channel)
            if level_db is not None:
                with open_sound(uri) as whole:
                    for channel, gain in zip(channels, level.gains(whole.blocks, level_db), strict=False):
                        channel.gain = float(gain)
                for match in matches or []:
                    match.samples = level.raised(match.samples, level_db)
            for block in sound.blocks:
                for channel in channels:
                    yield from channel.update(block[:, channel.number])
        if not channels or not channels[0].windower.total:
            raise AudioError("EMPTY", "the file holds no samples")
        for channel in channels:
            yield from channel.finish()
    except Exception as error:  # whatever a decoder throws at us: the recording gets its row
        known = error if isinstance(error, AudioError) else AudioError("DECODE", in_words(error))
        for channel in channels:
            yield channel.failed(known)
        if not channels:
            yield unopened(uri, reference, known)


def unopened(uri: str, reference: str | None, error: AudioError) -> Chunk:
    """The one chunk of a recording of which nothing is known but why."""
    return Chunk(uri, None, 0, row=_row(uri, None, reference, error))


class _Channel:
    """What is kept of one channel while its recording streams past."""

    def __init__(
        self, uri: str, number: int, of: int, reference: str | None, match: align.Match | None, problem: str | None
    ):
        self.uri, self.number, self.reference = uri, number, reference
        self.problem = problem or (match and match.problem)  # why the reference is not used
        self.match, self.paired = match, match is not None and match.used
        self.windower, self.facts = Windower(), evidence.Evidence()
        self.most = max(1, min(CHUNK_WINDOWS, HELD_WINDOWS // of))
        self.end, self.speech_s = 0, 0.0  # of the windows so far: their end in samples, speech without the overlap
        self.chunk = self._chunk(0)
        self.drawn: Spread | None = None  # None: all windows are scored
        self.gain = 1.0

    def update(self, samples: np.ndarray) -> Iterator[Chunk]:
        """Take float32 [n]; give a chunk when the next window would not fit."""
        self.facts.update(samples)
        for start, window in self.windower.update(to_int16(samples * self.gain)):
            yield from self._add(start, window)

    def finish(self) -> Iterator[Chunk]:
        """Give the last chunk, with its row."""
        duration_s = self.windower.total / RATE
        error = None
        if duration_s < MIN_S:
            error = AudioError("TOO_SHORT", f"{duration_s:.2f} s; at least {MIN_S} s are needed")
        else:
            for start, window in self.windower.finish():
                yield from self._add(start, window)
            if self.drawn:
                self.chunk.of = self.drawn.seen
                for start, window, speech_s in self.drawn.things():
                    self._take(start, window, speech_s)
            if not self.speech_s:
                error = AudioError("SILENT", "no speech: silence, or a steady noise or tone")
            elif self.problem:
                error = AudioError("REFERENCE", f"scored without the reference: {self.problem}")
        row = _row(self.uri, self.number, self.reference, error)
        row.update(duration_s=duration_s, speech_s=self.speech_s, evidence=self.facts.result())
        row["alignment"] = self.match.row() if self.match else None
        self.chunk.row = row
        yield self.chunk

    def failed(self, error: AudioError) -> Chunk:
        row = _row(self.uri, self.number, self.reference, error)
        return Chunk(self.uri, self.number, self.chunk.index, row=row)

    def _chunk(self, index: int) -> Chunk:
        return Chunk(self.uri, self.number, index, references=[] if self.paired else None)

    def _add(self, start: int, window: np.ndarray) -> Iterator[Chunk]:
        if len(self.chunk.windows) == self.most:
            yield self.chunk
            self.chunk = self._chunk(self.chunk.index + 1)
        speech = speech_frames(window)
        overlap = round((self.end - start) / FRAME)
        self.speech_s += float(speech[overlap:].sum() * FRAME_S)
        self.end = start + len(window)
        speech_s = float(speech.sum() * FRAME_S)
        if not self.drawn:
            self._take(start, window, speech_s)
        elif speech_s:
            self.drawn.add((start, window, speech_s))

    def _take(self, start: int, window: np.ndarray, speech_s: float) -> None:
        self.chunk.windows.append(window)
        self.chunk.starts_s.append(start / RATE)
        self.chunk.speech_s.append(speech_s)
        if self.paired:
            self.chunk.references.append(self.match.reference(start, len(window)))


def _row(uri: str, channel: int | None, reference: str | None, error: AudioError | None) -> dict:
    row = dict.fromkeys(ROW_FIELDS)
    row.update(recording_id=recording_id(uri), uri=uri, channel=channel, reference_uri=reference)
    row.update(status="ok", windows=[])
    if error:
        _mark(row, error)
    return row


def in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _mark(row: dict, error: AudioError) -> None:
    row.update(error_code=error.code, error_detail=error.detail)
    if error.code != "REFERENCE":
        row["status"] = "skipped" if error.code in SKIPPED else "failed"


def rows(scored: Iterable[tuple[Chunk, dict | None]]) -> list[dict]:
    """One row a channel from all chunks of ONE recording, in any order; only one where it could not be opened."""
    scored = list(scored)
    broken = [pair for pair in scored if pair[0].channel is None]
    scored = broken[:1] or sorted(scored, key=lambda pair: (pair[0].channel, pair[0].index))
    return [assemble(channel) for _, channel in groupby(scored, key=lambda pair: pair[0].channel)]


def assemble(scored: Iterable[tuple[Chunk, dict | None]]) -> dict:
    """One output row (`ROW_FIELDS`) from the chunks of ONE channel and their window scores, in order.

    A score is {"mean": [n, 5], "std": [n, 5], "explanation": str or None} for the n windows of its chunk, NaN where
    speech_s is 0, in the order of `DIMENSIONS`; "profile", "model" and "scored_at" are copied to the row. It may be
    None where the row is not "ok"; None or NaN for a window that counts is MODEL, as is {"error": what happened},
    unless it has a "code". With "drawn" only these windows were scored, and are in the row.

    A recording's score is the mean over its windows weighted by their speech; its *_std is the root of the mean
    variance by the same weights: the spread of listeners, not the error of the mean. That is mos_se: what the windows
    that were not drawn may change, 0 when all were. The explanation is that of the chunk with the worst window.
    """
    row, windows, means, variances, weights, of = None, [], [], [], [], 0
    extra, error, worst = {}, None, np.inf
    for chunk, score in scored:
        row = chunk.row
        n = len(chunk.windows)
        mean, std = np.full((n, 5), np.nan), np.full((n, 5), np.nan)
        if score and "error" not in score:
            mean, std = np.array(score["mean"], float).reshape(n, 5), np.asarray(score["std"], float).reshape(n, 5)
            extra.update((key, score[key]) for key in ("profile", "model", "scored_at") if key in score)
        counts = np.asarray(chunk.speech_s) > 0
        of += chunk.of or counts.sum()
        drawn = np.isin(range(n), score["drawn"]) if score and "drawn" in score else np.full(n, True)
        counts &= drawn
        mean[~counts] = np.nan
        if not (np.isfinite(mean[counts]).all() and np.isfinite(std[counts]).all()):
            said = (score or {}).get("error") or "no finite score for a window"
            error = error or AudioError((score or {}).get("code", "MODEL"), said)
        elif counts.any() and mean[counts, 0].min() < worst:
            worst = mean[counts, 0].min()
            extra.update((key, score.get(key)) for key in ("explanation", "explain_below") if key in score)
        for start, window, values in compress(zip(chunk.starts_s, chunk.windows, mean, strict=True), drawn):
            values = [float(v) if np.isfinite(v) else None for v in values]
            span = {"start_s": start, "end_s": start + len(window) / RATE}
            windows.append(span | dict(zip(DIMENSIONS, values, strict=True)))
        means.append(mean[drawn])
        variances.append(std[drawn] ** 2)
        weights.append(np.asarray(chunk.speech_s, float)[drawn])
    if row is None:
        raise ValueError("the last chunk of a channel carries its row, and it did not come")
    row = dict(row)
    if row["status"] == "ok" and error:
        _mark(row, error)
    row.update((key, value) for key, value in extra.items() if key in ROW_FIELDS and key != "explanation")
    if row["status"] != "ok":
        return row
    means, variances, weights = np.concatenate(means), np.concatenate(variances), np.concatenate(weights)
    counts = weights > 0
    mean = np.average(means[counts], axis=0, weights=weights[counts])
    std = np.sqrt(np.average(variances[counts], axis=0, weights=weights[counts]))
    for i, name in enumerate(DIMENSIONS):
        row[name], row[f"{name}_std"] = float(mean[i]), float(std[i])
    row["mos_se"] = standard_error(means[counts, 0], weights[counts], of)
    worst_at = int(np.nanargmin(means[:, 0]))
    row.update(windows=windows, worst_start_s=windows[worst_at]["start_s"], worst_mos=windows[worst_at]["mos"])
    row["explanation"] = extra.get("explanation") if row["mos"] < extra.get("explain_below", np.inf) else None
    return row
