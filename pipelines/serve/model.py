"""The model behind the endpoint: whoever waits when it becomes free is scored in one batch.

Ray Serve's own batching waits for a batch to fill, by count; this one never waits, batches by seconds of audio, and
passes over requests that were given up. Words are made token by token between the batches, so that nobody waits for a
whole answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqllm.audio import RATE
from sqllm.audio.windows import WINDOW_S
from sqllm.recording import Chunk, Worst, in_words

log = logging.getLogger("ray.serve")


@dataclass
class Waiting:
    chunk: Chunk
    profile: str | None
    scores: asyncio.Future

    @property
    def seconds(self) -> float:
        return sum(map(len, self.chunk.windows)) / RATE


class Model:
    """A `Predictor` in a thread of its own, for many callers at once."""

    def __init__(self, predictor, name: str = "embedded"):
        self.predictor, self.name = predictor, name
        self.batch_s = 2 * predictor.batch * WINDOW_S  # two passes: the second one is laid out while the first runs
        self.waiting: deque[Waiting] = deque()
        self.draining: asyncio.Task | None = None
        self.thread = ThreadPoolExecutor(1, "model")

    async def info(self) -> dict:
        device = str(self.predictor.model.device)
        return {"name": self.name, "fingerprint": self.predictor.fingerprint, "device": device}

    async def score(self, chunk: Chunk, profile: str | None = None) -> dict:
        """What `assemble` takes, and "model", the fingerprint; {"error": words} where it fails on this chunk."""
        mine = Waiting(chunk, profile, asyncio.get_running_loop().create_future())
        self.waiting.append(mine)
        if self.draining is None or self.draining.done():
            self.draining = asyncio.create_task(self._drain())
        return await mine.scores  # given up: the future is cancelled, and passed over

    async def answer(
        self, worst: Worst, question: str | None, profile: str | None = None, other: Worst | None = None
    ) -> AsyncIterator[str]:
        """Words about a window, or about two, piece by piece; an explanation where there is no question."""
        loop = asyncio.get_running_loop()
        pieces = self.predictor.answer_about(worst, question, profile, other)
        while (piece := await loop.run_in_executor(self.thread, next, pieces, None)) is not None:
            yield piece

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            chunks, profile = [waiting.chunk for waiting in batch], batch[0].profile
            try:
                found = await loop.run_in_executor(self.thread, self._scores, chunks, profile)
            except Exception as error:
                found = [{"error": in_words(error)}] * len(batch)
            for waiting, scores in zip(batch, found, strict=True):
                if not waiting.scores.done():
                    waiting.scores.set_result(scores | {"model": self.predictor.fingerprint})

    def _next_batch(self) -> list[Waiting]:
        """The first who still waits, and others with the same profile, up to `batch_s` of audio."""
        batch, others, seconds = [], [], 0.0
        while self.waiting and seconds < self.batch_s:
            first = self.waiting.popleft()
            if first.scores.done():
                continue
            if batch and (first.profile != batch[0].profile or seconds + first.seconds > self.batch_s):
                others.append(first)
                if len(others) > 64:
                    break
            else:
                batch.append(first)
                seconds += first.seconds
        self.waiting.extendleft(reversed(others))
        return batch

    def _scores(self, chunks: list[Chunk], profile: str | None) -> list[dict]:
        """A call that fails is repeated one by one, so that one chunk spoils no other."""
        try:
            return self.predictor.score_chunks(chunks, profile)
        except Exception as error:
            if len(chunks) > 1:
                return [scores for chunk in chunks for scores in self._scores([chunk], profile)]
            log.exception("the model failed on a chunk")
            return [{"error": in_words(error)}]
