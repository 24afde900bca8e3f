"""A file to its rows, chunk by chunk: cut in threads, scored by the model, and let go.

What `Predictor.score` and `Predictor.ask` do in one process, over a model that is elsewhere.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pipelines.serve.meter import Meter
from pipelines.serve.problems import Problem
from pipelines.serve.settings import Settings
from sqllm.audio.io import open_sound
from sqllm.errors import AudioError
from sqllm.model.config import explained_below
from sqllm.recording import ALL, Chunk, Moment, Search, Worst, cut, recording_id, rows, worst_of

PIECE = 8  # windows in one call of the model: a long recording lets short ones pass
AHEAD = 3  # pieces of one recording under way at a time
PAIRS = 16  # with references, at a time: one of 30 minutes is held whole, in 80 MB
FRESH_S = 30.0  # so long a model that has scored counts as ready
HIGHEST_RATE = 192_000  # Hz: a second of a header that lies may not fill the memory


@dataclass
class Recording:
    """An upload on disk, and what its sender calls it."""

    path: Path
    name: str
    reference: Path | None = None
    reference_name: str | None = None

    def named(self, row: dict) -> dict:
        """The row under the names of its sender."""
        called = {"uri": self.name, "recording_id": recording_id(self.name), "reference_uri": self.reference_name}
        if row["error_detail"]:  # decoders like to say which file
            called["error_detail"] = row["error_detail"].replace(str(self.path), self.name)
            if self.reference:
                called["error_detail"] = called["error_detail"].replace(str(self.reference), self.reference_name)
        return row | called


@dataclass
class Judgement:
    rows: list[dict]
    worst: dict[int, Worst] = field(default_factory=dict)  # of each channel that has a score


class Judge:
    """Scores recordings with `model` (`model.Model`, or a handle to its replicas); decodes in the threads of `pool`."""

    def __init__(self, model, settings: Settings, pool: Executor, meter: Meter):
        self.model, self.settings, self.pool, self.meter = model, settings, pool, meter
        self.known, self.scored_at = None, 0.0
        self.pairs = asyncio.Semaphore(PAIRS)

    async def info(self) -> dict:
        """What the model says of itself. While it scores it is not asked: there may be a queue before it."""
        if self.known is None or time.monotonic() - self.scored_at > FRESH_S:
            self.known, self.scored_at = await self.model.info(), time.monotonic()
        return self.known

    async def score(self, recording: Recording, profile: str | None, explain: str = "never") -> list[dict]:
        """The rows of `Predictor.score`. Problem where no channel has a score, or it takes too long."""
        below = explained_below(explain)
        judgement = await self.judge(recording, profile)
        async with self._in_time():
            for row in judgement.rows:
                if row["status"] == "ok" and row["mos"] < below:
                    words = self.words(judgement.worst[row["channel"]], None, profile)
                    row["explanation"] = "".join([piece async for piece in words])
        return judgement.rows

    async def judge(self, recording: Recording, profile: str | None) -> Judgement:
        """Rows without explanations, and the worst windows, which are what words are about."""
        scored, worst, models = [], {}, set()
        async with self._in_time(), aclosing(self._scored(recording, profile)) as pieces:
            async for chunk, scores in pieces:
                scored.append((chunk.without_audio(), scores))
                if "model" in scores:
                    models.add(scores["model"])
                if chunk.windows and "mean" in scores:
                    worst[chunk.channel] = worst_of(chunk, scores["mean"], worst.get(chunk.channel))
            if not models:  # nobody speaks
                models = {(await self.info())["fingerprint"]}
        if len(models) > 1:
            raise Problem(503, "UNAVAILABLE", "the model was replaced meanwhile", {"Retry-After": "1"})
        stamp = {"profile": profile, "model": models.pop(), "scored_at": datetime.now(UTC).isoformat()}
        judged = [recording.named(row | stamp) for row in rows(scored)]
        self.meter.judged(judged)
        if not any(row["status"] == "ok" for row in judged):
            raise Problem.of_row(judged[0], rows=judged)
        return Judgement(judged, {channel: found for channel, found in worst.items() if found})

    async def worst(self, recording: Recording, profile: str | None, moment: Moment = ALL) -> tuple[Worst, str | None]:
        """`Search.found`. Problem where that is nothing, or it takes too long."""
        search = Search(moment)
        try:
            async with self._in_time(), aclosing(self._scored(recording, profile, moment)) as pieces:
                async for chunk, scores in pieces:
                    if "error" in scores:
                        raise AudioError("MODEL", scores["error"])
                    search.take(chunk, scores.get("mean"))
            worst, unpaired = search.found()
            return worst, unpaired and recording.named({"error_detail": unpaired})["error_detail"]
        except AudioError as error:
            row = recording.named({"error_code": error.code, "error_detail": error.detail})
            raise Problem.of_row(row) from None

    def words(
        self, worst: Worst, question: str | None, profile: str | None, other: Worst | None = None
    ) -> AsyncIterator[str]:
        """An answer, piece by piece; without a question, an explanation."""
        return self.model.answer(worst, question, profile, other)

    def _in_time(self):
        return in_time(self.settings.timeout_s)

    async def _scored(
        self, recording: Recording, profile: str | None, moment: Moment = ALL
    ) -> AsyncIterator[tuple[Chunk, dict]]:
        """Pieces with their scores, in order, while the next ones are decoded and scored."""
        waiting: deque[tuple[Chunk, asyncio.Task]] = deque()
        try:
            turn = self.pairs if recording.reference else nullcontext()
            async with turn, aclosing(self._cut(recording)) as chunks:
                async for chunk in chunks:
                    for piece in pieces(moment.of(chunk)):
                        if len(waiting) == AHEAD:
                            yield waiting[0][0], await waiting[0][1]
                            waiting.popleft()
                        waiting.append((piece, asyncio.create_task(self._of_piece(piece, profile))))
            while waiting:
                yield waiting[0][0], await waiting[0][1]
                waiting.popleft()
        finally:
            for _, task in waiting:
                task.cancel()

    async def _of_piece(self, piece: Chunk, profile: str | None) -> dict:
        if not piece.counts:
            return {}
        scores = await self.model.score(piece, profile)
        self.scored_at = time.monotonic()
        if self.known and self.known["fingerprint"] != scores["model"]:
            self.known = None
        return scores

    async def _cut(self, recording: Recording) -> AsyncIterator[Chunk]:
        loop = asyncio.get_running_loop()
        for path in filter(None, (recording.path, recording.reference)):
            await loop.run_in_executor(self.pool, self._check, path)
        chunks = cut(str(recording.path), recording.reference and str(recording.reference))
        while (chunk := await loop.run_in_executor(self.pool, next, chunks, None)) is not None:
            if chunk.starts_s and chunk.starts_s[-1] > self.settings.max_audio_s:
                raise self._too_long()
            if chunk.row and (chunk.row["duration_s"] or 0) > self.settings.max_audio_s:
                raise self._too_long()
            yield chunk

    def _too_long(self) -> Problem:
        return Problem(413, "TOO_LONG", f"more than {self.settings.max_audio_s:g} s of audio")

    def _check(self, path: Path) -> None:
        """What a header alone can do to us. What does not open is left to `cut`, which makes a row of it."""
        try:
            with open_sound(str(path)) as sound:
                if sound.channels > self.settings.max_channels:
                    raise Problem(
                        413, "TOO_LARGE", f"{sound.channels} channels; at most {self.settings.max_channels} are taken"
                    )
                if sound.rate > HIGHEST_RATE:
                    raise Problem(422, "UNSUPPORTED", f"{sound.rate} Hz; at most {HIGHEST_RATE} are taken")
        except AudioError:
            pass


def pieces(chunk: Chunk) -> Iterator[Chunk]:
    """The chunk in pieces of at most PIECE windows; the last one has its row."""
    for start in range(0, max(1, len(chunk.windows)), PIECE):
        here = slice(start, start + PIECE)
        yield replace(
            chunk,
            windows=chunk.windows[here],
            references=chunk.references and chunk.references[here],
            starts_s=chunk.starts_s[here],
            speech_s=chunk.speech_s[here],
            row=chunk.row if here.stop >= len(chunk.windows) else None,
        )


class in_time:
    """`async with in_time(seconds)`: a Problem where the time is over."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    async def __aenter__(self):
        self.timeout = asyncio.timeout(self.seconds)
        await self.timeout.__aenter__()

    async def __aexit__(self, *error):
        try:
            return await self.timeout.__aexit__(*error)
        except TimeoutError:
            headers = {"Retry-After": str(math.ceil(self.seconds))}
            raise Problem(504, "TIMEOUT", f"not done after {self.seconds:g} s", headers) from None
